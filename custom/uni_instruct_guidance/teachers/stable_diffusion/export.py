"""A one-step student as a stock diffusers pipeline."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import torch
from torch import nn

from .checks import forget_origin, local_folder
from .fake_score import FakeScore
from .teacher import Teacher


def save_one_step_pipeline(teacher: Teacher, student: FakeScore, t_init: int, folder: Path) -> None:
    """Write `folder` so that `StableDiffusionPipeline.from_pretrained(folder)(prompt, num_inference_steps=1,
    guidance_scale=0)` draws g(z) = x̂0(z; t_init, prompt).

    A DDIM scheduler over the first t_init + 1 steps of the teacher's chain takes one step, from t_init, to x̂0.
    """
    from diffusers import DDIMScheduler

    source = local_folder(teacher.name, teacher.cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("vae", "text_encoder", "tokenizer", "feature_extractor"):
        if (source / part).is_dir():
            shutil.copytree(source / part, folder / part)
    merged_unet(teacher, student).save_pretrained(folder / "unet", safe_serialization=True)
    chain = DDIMScheduler.from_config(teacher.scheduler_config)
    DDIMScheduler(
        num_train_timesteps=t_init + 1,
        trained_betas=chain.betas[: t_init + 1].tolist(),
        prediction_type=teacher.prediction_type,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    ).save_pretrained(folder / "scheduler")
    index = json.loads((source / "model_index.json").read_text(encoding="utf-8"))
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    index["safety_checker"], index["requires_safety_checker"] = [None, None], False
    forget_origin(folder)
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def merged_unet(teacher: Teacher, student: FakeScore) -> nn.Module:
    """The student's U-Net without adapters, in float32."""
    if student.kind == "full":
        return student.unet
    unet = copy.deepcopy(teacher.unet).float()
    for name, layer in student.unet.named_modules():
        if hasattr(layer, "get_delta_weight"):
            weight = unet.get_submodule(name).weight
            weight += layer.get_delta_weight("default").to(weight)
    return unet
