"""Magic3D and Fantasia3D in the built-in host by threestudio's names and fields, a step of each stage."""

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
from threestudio.runner import require_known_names
from threestudio.utils.config import load_config

HASH = {"otype": "HashGrid", "n_levels": 2, "n_features_per_level": 2, "log2_hashmap_size": 8, "base_resolution": 4,
        "per_level_scale": 2.0}  # fmt: skip
CAMERAS = {"batch_size": 1, "width": 16, "height": 16, "eval_width": 8, "eval_height": 8, "n_test_views": 1}
PROMPTS = {"prompt": "a red mug", "spawn": False}
STOCK = {"guidance_scale": 100.0, "half_precision_weights": False}


def config(system_type: str, system: dict, teacher: Path, **data) -> dict:
    """A configuration in the words of threestudio's own recipe."""
    by = {"pretrained_model_name_or_path": str(teacher)}
    common = {
        "background_type": "solid-color-background",
        "prompt_processor_type": "stable-diffusion-prompt-processor",
        "prompt_processor": {**PROMPTS, **by},
        "guidance_type": "stable-diffusion-guidance",
        "optimizer": {"name": "AdamW", "args": {"lr": 0.001}},
        "loss": {"lambda_sds": 1.0},
    }
    system = {**common, **system}
    system["guidance"] = {**STOCK, **by, **system.get("guidance", {})}
    return {
        "name": "baseline", "tag": "test", "use_timestamp": False, "seed": 0,
        "data_type": "random-camera-datamodule", "data": {**CAMERAS, **data},
        "system_type": system_type, "system": system, "trainer": {"max_steps": 2}, "checkpoint": {},
    }  # fmt: skip


def train(cfg: dict, folder: Path, steps: int = 2):
    path = folder / "config.yaml"
    folder.mkdir(exist_ok=True)
    OmegaConf.save(OmegaConf.create(cfg), path)
    loaded = load_config(str(path), cli_args=[f"exp_root_dir={folder}"], n_gpus=1)
    pl.seed_everything(0, verbose=False)
    system = threestudio.find(loaded.system_type)(loaded.system)
    system.set_save_dir(str(folder / "save"))
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, inference_mode=False,
    )  # fmt: skip
    trainer.fit(system, datamodule=threestudio.find(loaded.data_type)(loaded.data))
    assert trainer.global_step == steps
    checkpoint = folder / "ckpts" / "last.ckpt"
    os.makedirs(checkpoint.parent, exist_ok=True)
    os.makedirs(folder / "configs", exist_ok=True)
    trainer.save_checkpoint(checkpoint)
    OmegaConf.save(loaded, folder / "configs" / "parsed.yaml")
    return system, str(checkpoint)


def test_magic3d_coarse_then_refined(tiny_teacher, tmp_path):
    light = {"material_type": "diffuse-with-point-light-material", "material": {"soft_shading": True}}
    coarse = {
        **light,
        "geometry_type": "implicit-volume",
        "geometry": {"radius": 2.0, "normal_type": "analytic", "pos_encoding_config": HASH,
                     "isosurface_threshold": "auto", "isosurface_resolution": 16},
        "renderer_type": "nerf-volume-renderer",
        "renderer": {"radius": 2.0, "num_samples_per_ray": 16},
        "guidance": {"weighting_strategy": "uniform"},
        "loss": {"lambda_sds": 1.0, "lambda_orient": [0, 10.0, 1000.0, 5000], "lambda_sparsity": 1.0,
                 "lambda_opaque": 0.0},
    }  # fmt: skip
    system, checkpoint = train(config("magic3d-system", coarse, tiny_teacher), tmp_path / "coarse")
    assert system.regularisers == ("orient", "sparsity", "opaque")
    refine = {
        **light,
        "refinement": True,
        "geometry_convert_from": checkpoint,
        "geometry_convert_inherit_texture": True,
        "geometry_type": "tetrahedra-sdf-grid",
        "geometry": {"radius": 2.0, "isosurface_resolution": 16, "pos_encoding_config": HASH, "fix_geometry": False},
        "renderer_type": "nvdiff-rasterizer",
        "loss": {"lambda_sds": 1.0, "lambda_normal_consistency": 10000.0},
    }
    refined, _ = train(config("magic3d-system", refine, tiny_teacher), tmp_path / "refine")
    assert refined.regularisers == ("normal_consistency",)
    encoding = refined.geometry.encoding.state_dict()
    assert encoding.keys() == system.geometry.encoding.state_dict().keys()


def test_fantasia3d_geometry_then_texture(tiny_teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(implicit_sdf, "FIT_STEPS", 60)
    monkeypatch.setattr(implicit_sdf, "FIT_RATE", 1e-2)
    shape = {
        "latent_steps": 1,
        "geometry_type": "implicit-sdf",
        "geometry": {"radius": 1.0, "n_feature_dims": 0, "isosurface_resolution": 16, "pos_encoding_config": HASH,
                     "isosurface_deformable_grid": True, "isosurface_coarse_to_fine": False,
                     "shape_init": "sphere", "shape_init_params": 0.5},
        "material_type": "no-material", "material": {"n_output_dims": 0},
        "renderer_type": "nvdiff-rasterizer",
        "guidance": {"weighting_strategy": "fantasia3d", "max_step_percent": 0.5},
        "loss": {"lambda_sds": 1.0, "lambda_normal_consistency": 0.0},
    }  # fmt: skip
    shown = []
    find = threestudio.find("stable-diffusion-guidance")
    forward = find.forward

    def watched(self, rgb, *args, **kwargs):
        shown.append((rgb.shape[-1], kwargs["rgb_as_latents"]))
        return forward(self, rgb, *args, **kwargs)

    monkeypatch.setattr(find, "forward", watched)
    cameras = {"camera_distance_range": [3, 3], "fovy_range": [25, 45]}
    system, checkpoint = train(config("fantasia3d-system", shape, tiny_teacher, **cameras), tmp_path / "shape")
    # normals and mask as latents for latent_steps, then pictures of normals
    assert shown == [(4, True), (3, False)]
    radius = system.geometry.isosurface().v_pos.norm(dim=-1)
    assert 0.4 < radius.mean() < 0.6
    texture = {
        "texture": True,
        "geometry_convert_from": checkpoint,
        "geometry_type": "tetrahedra-sdf-grid",
        "geometry": {"radius": 1.0, "isosurface_resolution": 16, "n_feature_dims": 8, "fix_geometry": True,
                     "pos_encoding_config": HASH},
        "material_type": "uni-instruct-pbr-material", "material": {"use_bump": True},
        "renderer_type": "nvdiff-rasterizer",
        "loss": {"lambda_sds": 1.0, "lambda_normal_consistency": 0.0},
    }  # fmt: skip
    shown.clear()
    textured, _ = train(config("fantasia3d-system", texture, tiny_teacher, **cameras), tmp_path / "texture")
    assert shown == [(3, False)] * 2
    # converting cuts large levels, which moves the vertices beside them a little
    ours, theirs = (part.geometry.isosurface().v_pos.detach() for part in (textured, system))
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0)


def test_all_unknown_names_are_said_at_once(tiny_teacher):
    cfg = config("no-system", {"geometry_type": "no-geometry", "renderer_type": "nvdiff-rasterizer"}, tiny_teacher)
    with pytest.raises(KeyError, match="system_type=no-system, system.geometry_type=no-geometry; registered"):
        require_known_names(OmegaConf.create(cfg))
    cfg["system_type"] = "magic3d-system"
    require_known_names(OmegaConf.create(cfg))  # one of them has a message of its own
