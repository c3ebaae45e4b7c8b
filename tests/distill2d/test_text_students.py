"""The one-step trainer with Stable-Diffusion-format teachers: gradients, methods, resume, stock folder, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from text_runs import PROMPTS, flat

from uni_instruct_guidance.core import METHODS
from uni_instruct_guidance.distill2d.config import DistillConfig, read_config
from uni_instruct_guidance.distill2d.methods import applicable
from uni_instruct_guidance.distill2d.trainer import build_distill_module, distill

ROOT = Path(__file__).parents[2]


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
