"""Weights to files and back: half precision, atomic, and a truncated file is refused by its name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from uni_instruct_guidance.teachers.stable_diffusion.checks import forget_origin


def save_weights(
    state: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None, dtype: torch.dtype = torch.float16
) -> None:
    """Write ``state`` as safetensors, floating point as ``dtype``, through a neighbour file and one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    cast = {
        key: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in state.items()
    }
    save_file(cast, partial, {"format": "pt", **(metadata or {})})
    os.chmod(partial, 0o644)  # safetensors keeps its files to their owner
    os.replace(partial, path)


def check_weights(folder: Path) -> None:
    """Open every safetensors file under ``folder``; ValueError names the first that is cut short or empty.

    The file's own header says how many bytes must follow, so the check reads headers only.
    """
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no *.safetensors under {folder}")
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                empty = not list(file.keys())
        except SafetensorError as error:
            raise ValueError(f"weights file {path} is truncated or broken: {error}") from error
        if empty:
            raise ValueError(f"weights file {path} holds no tensors")


def replace_files(source: Path, target: Path) -> None:
    """Move every file of ``source`` to the same place under ``target``, one rename each; ``source`` disappears."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            destination = target / path.relative_to(source)
            destination.parent.mkdir(parents=True, exist_ok=True)
            os.chmod(path, 0o644)  # safetensors keeps its files to their owner
            os.replace(path, destination)
    shutil.rmtree(source)


def save_pipeline(
    folder: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer, scheduler: DDIMScheduler,
) -> None:  # fmt: skip
    """Write a ``StableDiffusionPipeline`` folder: VAE and U-Net in fp16, the (small) text encoder in fp32.

    The text encoder stays fp32 because a stock pipeline takes the precision of its latents from it.
    Readers at the same time see either the old or the new version of each file.
    """
    staging = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    pipeline = StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(staging)
    if not (staging / "tokenizer" / "vocab.json").exists():  # transformers 5 writes tokenizer.json, 4 reads these two
        tokenizer.backend_tokenizer.model.save(str(staging / "tokenizer"))
    for name, module in (("vae", vae), ("unet", unet)):
        save_weights(module.state_dict(), staging / name / "diffusion_pytorch_model.safetensors")
    forget_origin(staging)
    replace_files(staging, folder)


def load_pipeline(folder: str | Path, **kwargs) -> StableDiffusionPipeline:
    """The teacher's pipeline from a folder, every weights file checked first."""
    check_weights(Path(folder))
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, safety_checker=None, **kwargs)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
