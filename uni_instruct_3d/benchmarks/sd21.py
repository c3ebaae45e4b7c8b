"""One step of distillation at the size of Stable Diffusion 2.1: seconds and memory, against its bare network passes.

U-Net, VAE and text encoder have the published shapes and random weights, so nothing is downloaded; what a step costs
does not depend on the weights. The picture is a parameter: no renderer, no discriminator's bank. Each method runs in a
process of its own, so that peaks of memory do not mix; rows that `--out` holds already are kept. Reported per method:
seconds of a step, those of its networks' passes forwards and backwards (the limit), peak memory. A row that does not
fit, or fails, says so and the next one goes on.

    python scripts/benchmark.py sd21 --out sd21.json
    python scripts/benchmark.py sd21 --methods vsd --batch 4 --dtype bf16 --compile memory.gradient_checkpointing=true
    python scripts/benchmark.py sd21 --quick        # tiny networks, for tests
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch

from ..command import COUNT, INDEX, PIXELS, device
from ._harness import CLOCK, Shares, peak_gib, reset_peak, seconds_now, watch
from ._rows import Rows, in_process

LORA = {"rank": 4, "targets": ["attention"]}
CHECKPOINTING = {"gradient_checkpointing": True}


def _uni(jacobian: str, **more) -> dict:
    return {"method": "uni_instruct", "divergence": "rkl", "jacobian": jacobian, **more}


# name -> (overrides of the guidance, whether it is asked for by default)
METHODS = {
    "sds": ({"method": "sds"}, True),
    "vsd": ({"method": "vsd", "fake_score": {"shared_pass": "never"}}, True),
    "vsd, one pass": ({"method": "vsd", "fake_score": {"shared_pass": "always"}}, False),
    "rkl none": (_uni("none", fake_score={"shared_pass": "always"}), True),
    "rkl none separate": (_uni("none", fake_score={"shared_pass": "never"}), False),
    "rkl full": (_uni("full", fake_score={"shared_pass": "always"}), False),
    "rkl full, checkpointing": (_uni("full", fake_score={"shared_pass": "always"}, memory=CHECKPOINTING), True),
    "vsd, checkpointing": ({"method": "vsd", "fake_score": {"shared_pass": "never"}, "memory": CHECKPOINTING}, False),
    "rkl none, checkpointing": (_uni("none", fake_score={"shared_pass": "always"}, memory=CHECKPOINTING), True),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# The published shapes, and small ones of the same make.
UNET = dict(
    sample_size=64, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True,
    block_out_channels=(320, 640, 1280, 1280),
)  # fmt: skip
VAE = dict(
    block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=768,
    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
)  # fmt: skip
TEXT = dict(
    hidden_size=1024, num_hidden_layers=23, num_attention_heads=16, intermediate_size=4096, projection_dim=512,
    vocab_size=49408, hidden_act="gelu",
)  # fmt: skip
SMALL_UNET = {**UNET, "sample_size": 8, "cross_attention_dim": 32, "attention_head_dim": (1, 2, 4, 4),
              "block_out_channels": (32, 64, 64, 64)}  # fmt: skip
SMALL_VAE = {**VAE, "block_out_channels": (32, 32, 32, 32), "layers_per_block": 1, "sample_size": 64}
SMALL_TEXT = {**TEXT, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
              "projection_dim": 32}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    usual = [name for name, (_, asked) in METHODS.items() if asked]
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=usual, metavar="METHOD",
                        help=f"of {', '.join(map(repr, METHODS))}; default: {', '.join(map(repr, usual))}")  # fmt: skip
    parser.add_argument("--batch", type=COUNT, default=1, help="pictures of a step")
    parser.add_argument("--size", type=PIXELS, help="side of the picture; default: what the model draws, 512")
    parser.add_argument("--steps", type=COUNT, default=1, help="timed steps")
    parser.add_argument("--untimed", type=INDEX, default=None, help="steps before; default: 0 on a CPU, 2 on a GPU")
    parser.add_argument("--dtype", choices=list(DTYPES), help="of the weights; default: bf16 on a CPU, fp16 on a GPU")
    parser.add_argument("--compile", action="store_true", help="the U-Nets through torch.compile")
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="small networks of the same make")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="on top, below system.guidance")


def run(args: argparse.Namespace) -> dict:
    import threestudio  # noqa: F401  the host first
    import uni_instruct_guidance.guidance.uni_instruct  # noqa: F401  rows are forked with what is imported here

    on_gpu = args.device.startswith("cuda")
    job = {
        "batch": args.batch, "size": args.size, "steps": args.steps, "quick": args.quick, "compile": args.compile,
        "untimed": args.untimed if args.untimed is not None else (2 if on_gpu else 0),
        "dtype": args.dtype or ("fp16" if on_gpu else "bf16"), "device": args.device, "overrides": args.overrides,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    rows = Rows(args.out, job)
    for name in args.methods:
        rows.get(name, lambda name=name: in_process(_measure, name, job))
    rows.get("text encoder", lambda: in_process(_measure_text, job))
    return {"settings": job, "clock": CLOCK, "rows": rows.rows}


def _measure(name: str, job: dict) -> dict:
    """One method's figures; called in a process of its own."""
    from uni_instruct_guidance.guidance.uni_instruct import UniInstructGuidance
    from uni_instruct_guidance.teachers.stable_diffusion.teacher import Teacher

    torch.set_num_threads(job["threads"])
    teacher = random_teacher(job)
    size = job["size"] or teacher.image_size
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Teacher, "load", lambda *_, **__: teacher):
        guidance = UniInstructGuidance(_config(name, job, folder))
    guidance.encode_size = size
    side = size // 2 ** (len(teacher.vae.config.block_out_channels) - 1)
    guidance.bank = SimpleNamespace(  # what the discriminator compares with; drawing it is no part of a step
        update=lambda step: None, draw=lambda rows: torch.randn(len(rows), 4, side, side, device=job["device"])
    )
    if job["compile"]:
        teacher.compile_parts()
        if guidance.networks.fake is not None:
            guidance.networks.fake.compile_parts()
    torch.manual_seed(0)
    picture = torch.rand(job["batch"], size, size, 3, device=job["device"], requires_grad=True)
    optimizer = torch.optim.AdamW([picture, *guidance.parameters()], lr=1e-4)
    prompts, cameras = _prompts(teacher.text_width, job["device"]), _cameras(job["batch"], job["device"])
    shares = Shares(seconds_now)
    watch(shares, SimpleNamespace(system=SimpleNamespace(forward=None)), guidance)
    loaded = peak_gib()
    reset_peak()
    seconds, networks = [], []
    for number in range(job["untimed"] + job["steps"]):
        shares.switch("other")
        shares.seconds.clear()
        start = seconds_now()
        optimizer.zero_grad(set_to_none=True)
        losses = guidance(picture, prompts, **cameras)
        sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
        shares.switch("other")
        optimizer.step()
        if number >= job["untimed"]:
            shares.switch("other")
            seconds.append(seconds_now() - start)
            networks.append(sum(spent for label, spent in shares.seconds.items() if label != "other"))
    step = statistics.median(seconds)
    limit = statistics.median(networks)
    return {
        "seconds_per_step": round(step, 3),
        "seconds_of_network_passes": round(limit, 3),
        "step_over_passes": round(step / limit, 3),
        "percent": shares.percent(),
        "peak_gib": round(peak_gib(), 2),
        "gib_after_building": round(loaded, 2),
        "picture": size,
        "finite": bool(torch.isfinite(picture.grad).all()),
    }


def _measure_text(job: dict) -> dict:
    """The text encoder on eight prompts: once per prompt, before training."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.set_num_threads(job["threads"])
    config = CLIPTextConfig(**(SMALL_TEXT if job["quick"] else TEXT))
    model = random_weights(lambda: CLIPTextModel(config), DTYPES[job["dtype"]], job["device"])
    tokens = torch.randint(1000, (8, 77), device=job["device"])
    start = seconds_now()
    with torch.no_grad():
        model(tokens, position_ids=torch.arange(77, device=job["device"])[None])
    seconds = seconds_now() - start
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "seconds_for_8_prompts": round(seconds, 3),
        "parameters_million": round(parameters / 1e6),
    }


def _config(name: str, job: dict, folder: str) -> dict:
    from omegaconf import OmegaConf

    overrides, _ = METHODS[name]
    base = {
        "pretrained_model_name_or_path": "random weights", "bank_dir": str(Path(folder) / "bank"),
        "guidance_scale": 100.0 if overrides["method"] == "sds" else 7.5, "fake_score": LORA,
    }  # fmt: skip
    return OmegaConf.to_container(OmegaConf.merge(base, overrides, OmegaConf.from_dotlist(job["overrides"])))


def random_teacher(job: dict):
    """A Teacher of SD 2.1's shapes."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from uni_instruct_guidance.core.process import DiscreteVP
    from uni_instruct_guidance.teachers.stable_diffusion.multi_view import attend
    from uni_instruct_guidance.teachers.stable_diffusion.teacher import Teacher

    where, dtype = torch.device(job["device"]), DTYPES[job["dtype"]]
    unet_shape, vae_shape = (SMALL_UNET, SMALL_VAE) if job["quick"] else (UNET, VAE)
    unet = random_weights(lambda: UNet2DConditionModel(**unet_shape), dtype, where)
    vae = random_weights(lambda: AutoencoderKL(**vae_shape), dtype, where)
    attend(unet)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )
    process = DiscreteVP.from_scheduler(scheduler).to(where)
    return Teacher("random weights", vae, unet, process, "epsilon", dict(scheduler.config), where, dtype)


def random_weights(build, dtype: torch.dtype, where: torch.device | str) -> torch.nn.Module:
    """A frozen network whose weights are made where they stay: matrices of variance 1/fan-in, norms at one."""
    with torch.device("meta"):
        network = build()
    network = network.to(dtype).to_empty(device=where).eval().requires_grad_(False)
    noise = torch.randn(1 << 20, device=where).to(dtype)
    for name, tensor in network.named_parameters():
        if tensor.ndim < 2:
            tensor.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            continue
        flat, scale = tensor.view(-1), tensor[0].numel() ** -0.5
        for start in range(0, len(flat), len(noise)):
            part = flat[start : start + len(noise)]
            part.copy_(noise[: len(part)] * scale)
    for buffer in network.buffers():
        buffer.zero_()
    return network


def _cameras(batch: int, where: str) -> dict:
    eye = torch.eye(4, device=where).expand(batch, 4, 4)
    numbers = {"elevation": 15.0, "azimuth": 30.0, "camera_distances": 1.5, "fovy": 0.9}
    return {name: torch.full((batch,), value, device=where) for name, value in numbers.items()} | {
        "c2w": eye, "mvp_mtx": eye
    }  # fmt: skip


def _prompts(width: int, where: str):
    """Random embeddings behind threestudio's contract, one for every direction."""
    generator = torch.Generator().manual_seed(0)
    text, uncond = (torch.randn(1, 77, width, generator=generator).to(where) for _ in range(2))

    def embeddings(elevation, *_, **__):
        return torch.cat([text.expand(len(elevation), -1, -1), uncond.expand(len(elevation), -1, -1)])

    front = SimpleNamespace(name="front", condition=lambda elevation, *_: torch.ones_like(elevation, dtype=torch.bool))
    return SimpleNamespace(
        text_embeddings=text, uncond_text_embeddings=uncond, text_embeddings_vd=text, uncond_text_embeddings_vd=uncond,
        directions=[front], direction2idx={"front": 0}, use_perp_neg=False, prompt="random",
        prompts_vd=["random"], get_text_embeddings=embeddings,
    )  # fmt: skip
