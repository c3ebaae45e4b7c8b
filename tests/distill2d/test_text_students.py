"""The one-step trainer with Stable-Diffusion-format teachers: gradients, methods, resume, stock folder, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_teacher import make_tiny_teacher

from uni_instruct_guidance.core import METHODS
from uni_instruct_guidance.core.process import per_sample
from uni_instruct_guidance.distill2d.config import DistillConfig, read_config
from uni_instruct_guidance.distill2d.methods import applicable
from uni_instruct_guidance.distill2d.trainer import build_distill_module, distill
from uni_instruct_guidance.teachers.randomness import Share

ROOT = Path(__file__).parents[2]
PROMPTS = ["a red mug", "a blue chair, front view", "a red chair", "a blue mug"]
BRIGHT = "def bright(images, prompts):\n    return images.mean((1, 2, 3))\n\n\ndef deaf(images, prompts):\n" \
    "    return images.detach().mean((1, 2, 3))\n"  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return make_tiny_teacher(tmp_path_factory.mktemp("teacher"), seed=3)


@pytest.fixture
def config(teacher, tmp_path):
    """(overrides) ↦ three steps of four pictures."""
    prompts, rewards = tmp_path / "prompts.txt", tmp_path / "rewards.py"
    prompts.write_text("# toys\n" + "\n".join(PROMPTS) + "\n")
    rewards.write_text(BRIGHT)

    def make(*overrides: str) -> DistillConfig:
        return read_config(
            DistillConfig,
            overrides=[
                *("steps=2", "batch=4", "lr=1e-3", "log_every=1", "grid=4", "save_every=1", "sample_every=0"),
                *("bank={count: 4, batch: 4, steps: 2, guidance_scale: 2.0}", "real=teacher", "text.t_init=700"),
                *("fake_noise.sampler=uniform_t", "student_noise.max_fraction=0.98", "trainer.accelerator=cpu"),
                *(f"teacher={teacher}", f"text.prompts={prompts}", f"bank.path={tmp_path / 'bank'}"),
                *(f"text.reward={rewards}:bright", "text.rank=2"),
                *overrides,
            ],
        )

    return make


def flat(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class OneProcess:
    """What a module asks of Lightning's trainer."""

    world_size, global_rank, strategy = 1, 0, None


def prepared(config: DistillConfig):
    module = build_distill_module(config)
    module.__dict__["_trainer"] = OneProcess()
    with torch.no_grad():  # away from the teacher, so that no score gap is zero
        for parameter in [*module.fake.parameters(), *module.student.parameters()]:
            generator = torch.Generator().manual_seed(parameter.numel())
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        if module.uses_discriminator:
            torch.nn.init.normal_(module.head.branches["mid"][-1].weight)
    return module


def found_gradient(module, share: Share) -> torch.Tensor:
    module.student.zero_grad()
    (loss,) = module._student_losses([share], module.method.at(0), module.random("student"))
    loss.backward()
    return torch.cat([p.grad.flatten() for p in module.student.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", ["swiftbrush", "diff_instruct"])
def test_direct_methods_are_the_guided_score_gap(config, name):
    """(s_p − s_q)ᵀ ∂x_t/∂θ with the method's weight, teacher under classifier-free guidance, written out in ε̂."""
    module = prepared(config(f"method={{name: {name}, weighting: sigma2, auxiliary: {{regression: 0, reward: 0}}}}",
                             "loss_scale={student: 1.0}", "method.guidance_teacher=4.5"))  # fmt: skip
    share = Share(0, 4, 4)
    found = found_gradient(module, share)

    random, teacher = module.random("student"), module.teacher
    z, rows = module._draw(random, share)
    text, null = module.conditions.of(rows, "cpu"), module.conditions.null(rows, "cpu")
    levels = module._levels(module.student_noise, random, share)
    alpha, sigma = (per_sample(v, z) for v in teacher.process.alpha_sigma(levels.t))
    t_init = torch.full((4,), 700)
    a0, s0 = (per_sample(v, z) for v in teacher.process.alpha_sigma(t_init))
    x0 = (z - s0 * module.student.unet(z, t_init, text).sample) / a0
    x_t = alpha * x0 + sigma * random.normal("eps", share, teacher.shape)
    with torch.no_grad():
        eps = teacher.unet(torch.cat([x_t] * 2), torch.cat([levels.t] * 2), torch.cat([text, null])).sample
        eps_q = eps[4:] + 4.5 * (eps[:4] - eps[4:])
        eps_p = module.fake.unet(x_t, levels.t, text).sample
    module.student.zero_grad()
    # s_p − s_q = (ε̂_q − ε̂_p)/σ, and the weighting sigma2 is threestudio's σ² on the gap of ε̂ in the latents
    (sigma.square() * (eps_q - eps_p) * x0).flatten(1).sum(1).mean().backward()
    expected = torch.cat([p.grad.flatten() for p in module.student.parameters() if p.grad is not None])
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3 * expected.abs().max().item())
    assert found.abs().max() > 0


def test_long_short_guidance_is_in_all_three_places(config):
    """SiD-LSG with κ = 0: −Δᵀ(s_p − s_c) per weight σ⁴/α² …, both scores and the fake score's loss guided."""
    module = prepared(config("method={name: sid_lsg, weighting: x0}", "loss_scale={student: 1.0}"))
    assert vars(module.method.guidance) == {"teacher": 1.5, "fake": 1.5, "fake_train": 1.5}
    share = Share(0, 4, 4)
    found = found_gradient(module, share)
    random = module.random("student")
    z, rows = module._draw(random, share)
    text, null = module.conditions.of(rows, "cpu"), module.conditions.null(rows, "cpu")
    levels = module._levels(module.student_noise, random, share)
    x0 = module.generate(module.student, z, text)
    x_t = module._diffuse(x0, levels, random, share)

    def guided(predict):
        cond, uncond = predict(text), predict(null)
        return uncond + 1.5 * (cond - uncond)

    x0_q = guided(lambda c: module.teacher.predict_x0(x_t, levels.t, c))
    x0_p = guided(lambda c: module.fake.denoise(x_t, levels.t, c)[0])
    module.student.zero_grad()
    (-((x0_p - x0_q) * (x0_p - x0)).flatten(1).sum(1)).mean().backward()
    expected = torch.cat([p.grad.flatten() for p in module.student.parameters() if p.grad is not None])
    cosine = torch.nn.functional.cosine_similarity(found, expected, dim=0)
    assert cosine > 0.9999  # equal up to the weighting's constant

    (loss,) = module._fake_losses([share], None, module.random("fake0"))
    random = module.random("fake0")
    z, rows = module._draw(random, share)
    text, null = module.conditions.of(rows, "cpu"), module.conditions.null(rows, "cpu")
    x0 = module.generate(module.student, z, text).detach()
    levels = module._levels(module.fake_noise, random, share)
    eps = random.normal("eps", share, module.teacher.shape)
    x_t = per_sample(levels.alpha, z) * x0 + per_sample(levels.sigma, z) * eps
    answer = guided(lambda c: module.fake.unet(x_t, levels.t, c).sample)
    torch.testing.assert_close(loss, (answer - eps).square().mean(), rtol=1e-3, atol=1e-5)


def test_every_row_for_generators_applies():
    rows = applicable(has_reward=True, text=True)
    assert set(METHODS) - set(rows) == {"sds", "dds", "red_diff"}


# Fast ones that between them have every kind of term; the others differ in numbers only.
FAST = ("swiftbrush", "dmd", "f_distill", "di_star")


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in applicable(has_reward=True, text=True)
    ],
)
def test_every_method_trains(config, name):
    result = distill(config(f"method={name}", "steps=1"), quiet=True)
    start = flat(build_distill_module(config(f"method={name}")).student)
    moved = flat(result.module.student) - start
    assert moved.isfinite().all() and moved.abs().max() > 1e-5 and not result.skipped
    scalars = result.scalars
    assert ("loss/regression" in scalars) == (name == "dmd")
    assert ("loss/reward" in scalars) == (name in ("di_pp", "di_star"))
    assert ("loss/adversarial" in scalars) == (name in ("dmd2", "sida", "f_distill", "uni_instruct"))
    assert result.module.fake.kind == ("lora" if name in ("swiftbrush", "vsd") else "full")


@pytest.mark.parametrize("student", ["full", "lora"])
def test_the_result_is_a_stock_pipeline(config, tmp_path, student):
    """One call of diffusers' own pipeline draws what the student draws from the same noise."""
    from diffusers import StableDiffusionPipeline

    out = tmp_path / "out"
    result = distill(config("method=swiftbrush", f"out={out}", f"text.student={student}"), quiet=True)
    assert {path.name for path in out.iterdir()} >= {"last.ckpt", "student", "log.jsonl", "samples"}
    pipeline = StableDiffusionPipeline.from_pretrained(out / "student", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    drawn = pipeline(PROMPTS[:2], num_inference_steps=1, guidance_scale=0, latents=z, output_type="latent").images
    module = result.module
    own = module.generate(result.network, z, module.conditions.of(torch.tensor([0, 1]), "cpu"))
    torch.testing.assert_close(drawn, own, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(own, module.generate(module.teacher.learner(), z, module.conditions.of(
        torch.tensor([0, 1]), "cpu")), atol=1e-3)  # fmt: skip


def test_captioned_pictures_serve_as_real_ones(config, tmp_path):
    import json

    from PIL import Image

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(4):
        Image.new("RGB", (40, 40), (60 * index, 0, 90)).save(pictures / f"{index}.png")
    data = ("method=sida", "real=data", f"data={{name: folder, path: {pictures}}}", "steps=1")
    with pytest.raises(ValueError, match="has no metadata.jsonl"):
        build_distill_module(config(*data))
    lines = [json.dumps({"file_name": f"{index}.png", "text": f"a mug {index}"}) for index in range(4)]
    (pictures / "metadata.jsonl").write_text("\n".join(lines[:3]) + "\n")
    with pytest.raises(ValueError, match="has no caption of 3.png"):
        build_distill_module(config(*data))
    (pictures / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    result = distill(config(*data), quiet=True)
    assert result.scalars["loss/discriminator"] > 0 and result.module.bank is None
    conditions = result.module.conditions
    assert conditions.texts(result.module.data.labels) == [f"a mug {index}" for index in range(4)]
    assert conditions.frequencies.tolist() == [0.25] * 4 + [0.0] * 4  # the student draws prompts, not captions
    captions_alone = build_distill_module(config(*data, "text.prompts=null")).conditions
    assert captions_alone.frequencies.tolist() == [0.25] * 4


@pytest.mark.slow
def test_stopped_and_continued_is_as_if_nothing_had_happened(config, tmp_path):
    whole = distill(config("method=sida", "steps=3", f"out={tmp_path / 'a'}"), quiet=True)
    distill(config("method=sida", "steps=1", f"out={tmp_path / 'b'}"), quiet=True)
    again = distill(config("method=sida", "steps=3", f"out={tmp_path / 'b'}"), quiet=True)
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name]), name


def test_the_bank_knows_every_weight_of_the_teacher(config, teacher, tmp_path):
    first = build_distill_module(config("method=dmd")).bank.folder
    assert build_distill_module(config("method=dmd")).bank.folder == first
    import shutil

    other = shutil.copytree(teacher, tmp_path / "other")
    assert build_distill_module(config("method=dmd", f"teacher={other}")).bank.folder == first  # content, not place
    merges = other / "tokenizer" / next(p.name for p in (other / "tokenizer").iterdir())
    merges.write_text(merges.read_text() + " ")
    assert build_distill_module(config("method=dmd", f"teacher={other}")).bank.folder != first


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["text.prompts=null"], "text.prompts is missing"),
        (["text.prompts=no.txt"], "text.prompts no.txt: cannot be read"),
        (["text.t_init=1000"], "text.t_init=1000 must be an index .* 0 to 999"),
        (["text.student=half"], "text.student='half' is not known; choose one of full, lora"),
        (["method=sida", "text.features=[up]"], r"text.features=\['up'\]; choose from down.0, down.1, mid"),
        (["method=sida", "real=data"], "real=data: captioned pictures need data.name=folder"),
        (["method=di_pp", "text.reward=null"], "'di_pp' does not apply .*text.reward"),
        (["method=di_pp", "text.reward=best"], "text.reward_type='best' is not known; choose one of clip, aesthetic"),
        (["method=sds"], "trains no generator"),
        (["text.targets=[heads]", "method=swiftbrush"], r"targets \['heads'\]; choices"),
    ],
)
def test_wrong_settings_are_named(config, overrides, message):
    with pytest.raises(ValueError, match=message) as error:
        build_distill_module(config(*overrides))
    assert "\n" not in str(error.value)


def test_wrong_files_are_named(config, tmp_path, teacher, capsys):
    import shutil

    blank = tmp_path / "blank.txt"
    blank.write_text("\n \n# nothing\n")
    with pytest.raises(ValueError, match="no prompts, only 3 blank lines and comments"):
        build_distill_module(config(f"text.prompts={blank}"))
    deaf = f"text.reward={tmp_path / 'rewards.py'}:deaf"
    with pytest.raises(ValueError, match="not differentiable in the pictures"):
        build_distill_module(config("method=di_pp", deaf, f"out={tmp_path / 'unborn'}"))
    mute = shutil.copytree(teacher, tmp_path / "mute", ignore=shutil.ignore_patterns("text_encoder"))
    with pytest.raises(FileNotFoundError, match=r"lacks \['text_encoder'\]"):
        build_distill_module(config(f"teacher={mute}"))
    long = tmp_path / "long.txt"
    long.write_text("a red mug\n" + "a red mug " * 8 + "\n")
    build_distill_module(config(f"text.prompts={long}"))
    assert "1 of 2 prompts are longer than the tokenizer's 16 tokens" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "configs/distill2d").glob("*-text*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_complete(path, config):
    shipped = read_config(DistillConfig, [path])
    assert shipped.batch % (shipped.micro_batch or 1) == 0 and Path(ROOT / shipped.text.prompts).is_file()
    small = config()
    shipped.teacher, shipped.text.prompts, shipped.text.reward = small.teacher, small.text.prompts, small.text.reward
    shipped.trainer, shipped.bank, shipped.text.rank = small.trainer, small.bank, 2
    module = build_distill_module(shipped)
    assert module.family.text and module.method.learns_fake_score
