"""Every shipped configuration is read, built and trained for a step or two, a tiny teacher in place of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

import threestudio
import uni_instruct_guidance.guidance
import uni_instruct_guidance.systems  # noqa: F401
from threestudio.utils.config import load_config
from uni_instruct_guidance.core import METHODS

ROOT = Path(__file__).parents[2]
STAGE_ONE = [
    path
    for path in sorted((ROOT / "configs").glob("*.yaml"))
    if not OmegaConf.is_missing(OmegaConf.load(path).system, "geometry_convert_from")
]
ALL_OVERLAYS = sorted((ROOT / "configs" / "methods").glob("*.yaml"))
# Rewards need a CLIP model: trained in tests/systems/test_rewards.py.
OVERLAYS = [path for path in ALL_OVERLAYS if path.stem not in ("di_pp", "di_star")]

# What makes any configuration small enough for a test: teacher, pictures, samples per ray, steps.
SMALL = [
    "system.prompt_processor.prompt=a red mug",
    "use_timestamp=false",
    "data.eval_height=8",
    "data.eval_width=8",
    "data.n_test_views=1",
]
# …and by renderer
SMALL_RENDERER = {
    "nerf-volume-renderer": ["system.renderer.num_samples_per_ray=16"],
    "nvdiff-rasterizer": ["system.geometry.isosurface_resolution=12"],
}
SMALL_PICTURES = {
    "lists": ["data.width=[8,8]", "data.height=[8,8]"],
    "numbers": ["data.width=8", "data.height=8"],
}


def small(config: Path, overlays, tiny_teacher, tmp_path, extra=()):
    raw = OmegaConf.load(config)
    shape = "lists" if OmegaConf.is_list(raw.data.width) else "numbers"
    args = [*SMALL, *SMALL_RENDERER[raw.system.renderer_type], *SMALL_PICTURES[shape], f"exp_root_dir={tmp_path}"]
    args.append(f"system.prompt_processor.pretrained_model_name_or_path={tiny_teacher}")
    if raw.system.guidance_type == "uni-instruct-guidance":
        args += [
            "system.guidance.bank.size=1",
            "system.guidance.bank.steps=1",
            f"system.guidance.bank_dir={tmp_path}/bank",
        ]
    if raw.system.geometry.get("shape_init"):  # the shape at once, not by a thousand steps
        at_once = ("shape_init=null", "sdf_bias=sphere", "sdf_bias_params=0.5")
        args += [f"system.geometry.{change}" for change in at_once]
    if raw.system.geometry.get("pos_encoding_config", {}).get("otype") == "HashGrid":
        args.append("system.geometry.pos_encoding_config.log2_hashmap_size=8")
    return load_config(str(config), *map(str, overlays), cli_args=[*args, *extra], n_gpus=1)


def train(cfg, tmp_path, steps=2):
    pl.seed_everything(0, verbose=False)
    system = threestudio.find(cfg.system_type)(cfg.system)
    system.set_save_dir(str(tmp_path / "save"))
    data = threestudio.find(cfg.data_type)(cfg.data)
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, inference_mode=False,
    )  # fmt: skip
    losses = []
    trainer.callbacks.append(Recorder(losses))
    trainer.fit(system, datamodule=data)
    assert len(losses) == steps and all(torch.isfinite(loss) for loss in losses)
    assert system.skipped_steps == 0
    return system


class Recorder(pl.Callback):
    def __init__(self, losses):
        self.losses = losses

    def on_train_batch_end(self, trainer, system, outputs, *_):
        self.losses.append(outputs["loss"])


@pytest.mark.parametrize("config", STAGE_ONE, ids=lambda path: path.stem)
def test_stage_one_configuration_trains(config, tiny_teacher, tiny_multi_view, tmp_path):
    groups = "multiview" in OmegaConf.load(config).data_type
    train(small(config, [], tiny_multi_view if groups else tiny_teacher, tmp_path), tmp_path)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_method_overlay_trains_on_the_cpu_configuration(overlay, tiny_teacher, tmp_path):
    """After the warm-up, so that the method itself runs."""
    extra = ["system.guidance.warmup.steps=0", "system.guidance.discriminator.warmup_steps=0"]
    system = train(small(ROOT / "configs" / "shapes-nerf.yaml", [overlay], tiny_teacher, tmp_path, extra), tmp_path)
    asked = OmegaConf.load(overlay).system.guidance
    assert system.guidance.current.name == asked.method
    if "divergence" in asked:
        assert system.guidance.current.objective.divergence.name == asked.divergence


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_method_overlay_fits_the_gpu_configuration(overlay, tiny_teacher, tmp_path):
    cfg = small(ROOT / "configs" / "uni-instruct-nerf.yaml", [overlay], tiny_teacher, tmp_path)
    guidance = threestudio.find(cfg.system.guidance_type)(cfg.system.guidance)
    assert guidance.method.name == OmegaConf.load(overlay).system.guidance.method


def test_every_method_that_works_in_3d_has_an_overlay():
    methods = {OmegaConf.load(path).system.guidance.method for path in ALL_OVERLAYS}
    needs_other_data = {"dds", "dmd", "red_diff"}
    assert methods == set(METHODS) - needs_other_data


@pytest.mark.parametrize("path", [*sorted((ROOT / "configs").rglob("*.yaml"))], ids=lambda path: path.stem)
def test_configuration_says_why(path):
    """A configuration opens with what it is for, and no default teacher is one of the ids that left the hub."""
    text = path.read_text()
    assert text.startswith("# ") and len(text.split("\n", 1)[0]) > 20
    assert "stabilityai/stable-diffusion-2" not in text and "runwayml" not in text


def test_prompt_files_have_one_prompt_a_line():
    for path in (ROOT / "prompts").glob("*.txt"):
        lines = path.read_text().splitlines()
        assert lines and all(line == line.strip() and line for line in lines), path.name
