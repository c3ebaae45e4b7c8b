"""threestudio's own recipes in the built-in host, unchanged but for the teacher's path and sizes (slow)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

import threestudio
import uni_instruct_guidance.guidance
import uni_instruct_guidance.models  # noqa: F401
from threestudio.models.geometry import implicit_sdf
from threestudio.utils.config import load_config

CHECKOUT = os.environ.get("THREESTUDIO")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHECKOUT is None, reason="set THREESTUDIO to a checkout")]

#: recipe -> the one whose result it starts from.
RECIPES = {
    "dreamfusion-sd": None,
    "prolificdreamer": None,
    "prolificdreamer-scene": None,
    "prolificdreamer-geometry": "prolificdreamer",
    "prolificdreamer-texture": "prolificdreamer-geometry",
    "magic3d-coarse-sd": None,
    "magic3d-refine-sd": "magic3d-coarse-sd",
    "fantasia3d": None,
    "fantasia3d-texture": "fantasia3d",
}


@pytest.fixture(scope="module")
def trained(tiny_teacher, tmp_path_factory):
    """Maker of a recipe's checkpoint after two steps, made once."""
    folder, made = tmp_path_factory.mktemp("recipes"), {}

    def make(name: str) -> str:
        if name not in made:
            made[name] = train(name, folder / name, tiny_teacher, make)
        return made[name]

    return make


def train(name: str, folder: Path, teacher: Path, make) -> str:
    path = Path(CHECKOUT) / "configs" / f"{name}.yaml"
    raw = OmegaConf.load(path)
    size = "[8,8]" if OmegaConf.is_list(raw.data.width) else "8"
    args = [f"exp_root_dir={folder}", "use_timestamp=false", "system.prompt_processor.prompt=a red mug",
            "system.prompt_processor.spawn=false", f"data.width={size}", f"data.height={size}", "data.eval_width=8",
            "data.eval_height=8", "system.guidance.half_precision_weights=false"]  # fmt: skip
    for block in ("prompt_processor", "guidance"):
        args.append(f"system.{block}.pretrained_model_name_or_path={teacher}")
    if "pretrained_model_name_or_path_lora" in raw.system.guidance:
        args.append(f"system.guidance.pretrained_model_name_or_path_lora={teacher}")
    if raw.system.geometry_type != "implicit-volume":
        args.append("system.geometry.isosurface_resolution=16")
    if raw.system.renderer_type == "nerf-volume-renderer":
        args.append("system.renderer.num_samples_per_ray=16")
    if RECIPES[name]:
        args.append(f"system.geometry_convert_from={make(RECIPES[name])}")
    if name == "prolificdreamer-geometry":
        args.append("system.geometry_convert_override.isosurface_threshold=auto")
    cfg = load_config(str(path), cli_args=args, n_gpus=1)
    pl.seed_everything(0, verbose=False)
    system = threestudio.find(cfg.system_type)(cfg.system)
    system.set_save_dir(str(folder / "save"))
    trainer = pl.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=1, inference_mode=False,
    )  # fmt: skip
    trainer.fit(system, datamodule=threestudio.find(cfg.data_type)(cfg.data))
    assert trainer.global_step == 2
    assert all(torch.isfinite(parameter).all() for parameter in system.parameters())
    checkpoint = folder / "run" / "ckpts" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    (folder / "run" / "configs").mkdir()
    trainer.save_checkpoint(checkpoint)
    OmegaConf.save(cfg, folder / "run" / "configs" / "parsed.yaml")
    return str(checkpoint)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains(name, trained, monkeypatch):
    monkeypatch.setattr(implicit_sdf, "FIT_STEPS", 20)
    monkeypatch.chdir(CHECKOUT)  # its light is found from the working folder
    assert Path(trained(name)).is_file()
