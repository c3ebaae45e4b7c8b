"""Gradients and losses of upstream threestudio's own guidances, for the twins to be held to.

    python tests/upstream/guidance_oracles.py CHECKOUT OUT.json [SCRATCH]

Runs in an unmodified checkout; its latent gradients are taken through its own loss.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import torch  # noqa: E402  after the path
from oracle_setup import (  # noqa: E402
    BATCH,
    CASES,
    COMMON,
    SIDE,
    T_GRAD,
    T_LORA,
    Prompts,
    cameras,
    lora,
    make_teacher,
    pattern,
    summary,
)


def fill_lora(guidance) -> None:
    """LoRA and camera weights by formula."""
    with torch.no_grad():
        for name, processor in guidance.unet_lora.attn_processors.items():
            for projection in ("to_q", "to_k", "to_v", "to_out"):
                layer = getattr(processor, f"{projection}_lora")
                for part, weight in (("A", layer.down.weight), ("B", layer.up.weight)):
                    weight.copy_(lora(name.removesuffix(".processor"), f"{projection}.{part}", weight.shape))
        embedding = guidance.camera_embedding.module
        for i, layer in enumerate((embedding.linear_1, embedding.linear_2)):
            layer.weight.copy_(pattern(f"camera.{i}.weight", *layer.weight.shape, scale=0.1))
            layer.bias.copy_(pattern(f"camera.{i}.bias", *layer.bias.shape, scale=0.1))


def answer(find, kind: str, options: dict, batch: int, perp_neg: bool, lora_kind: str | None, folder: Path) -> dict:
    """One step of upstream's guidance."""
    cfg = {**COMMON, **options, "pretrained_model_name_or_path": str(folder / "epsilon")}
    name = "stable-diffusion-guidance"
    if kind == "vsd":
        name = "stable-diffusion-vsd-guidance"
        cfg |= {"pretrained_model_name_or_path_lora": str(folder / lora_kind), "lora_cfg_training": False}
    guidance = find(name)(cfg)
    if kind == "vsd":
        fill_lora(guidance)
    latents = pattern("latents", batch, SIDE, SIDE, 4).requires_grad_(True)
    times = [torch.tensor(t[:batch]) for t in (T_GRAD, T_LORA)]
    noise = [pattern(f"noise {i}", batch, 4, SIDE, SIDE) for i in range(2)]
    with (
        mock.patch("torch.randint", side_effect=lambda *a, **k: times.pop(0)),
        mock.patch("torch.randn_like", side_effect=lambda *a, **k: noise.pop(0)),
    ):
        out = guidance(latents, Prompts(perp_neg), **cameras(batch), rgb_as_latents=True)
    (grad,) = torch.autograd.grad(out["loss_sds" if kind == "sds" else "loss_vsd"], latents)
    # upstream's loss squares the gradient: taken in float32 it has lost digits; its own norm of the gradient is kept
    losses = {"grad_norm": out["grad_norm"].item()}
    if kind == "vsd":
        losses["loss_lora"] = out["loss_lora"].item()
    return summary(grad, losses)


def main(checkout: Path, out: Path, scratch: Path) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    torch.manual_seed(0)
    for kind in ("epsilon", "v_prediction"):
        make_teacher(scratch / kind, kind)
    from uni_instruct_3d.upstream.launcher import prepare

    os.chdir(checkout)
    print(prepare(checkout))
    import threestudio

    assert Path(threestudio.__file__).parents[1] == checkout and BATCH == 2
    answers = {name: answer(threestudio.find, *case, scratch) for name, case in CASES.items()}
    commit = "28d9d80d9d00f308244adfcf3be8b17ca0cb6465"
    out.write_text(json.dumps({"upstream_commit": commit, "cases": answers}, indent=1) + "\n")
    print(f"wrote {len(answers)} cases to {out}")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), Path(folder).resolve())
