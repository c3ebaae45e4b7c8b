"""MVDream's published checkpoints (arXiv 2308.16512) as multi-view teachers: names and shapes into diffusers' layout.

A checkpoint such as ``sd-v2.1-base-4view.pt`` holds the U-Net in the original latent-diffusion layout, with two more
layers (``camera_embed``) and self-attention that runs over the views. Its autoencoder and text encoder are those of
Stable Diffusion 2.1, so they are taken from a diffusers folder of that model.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.errors import UserError, choose, require_writable
from ...core.files import atomically, folder_atomically
from .checks import TEACHER_PARTS, check_safetensors, check_teacher, local_folder
from .multi_view import WIDTH, Mark, attend, save_multi_view

PREFIX = "model.diffusion_model."
CAMERA_LAYERS = {"camera_embed.0": "class_embedding.linear_1", "camera_embed.2": "class_embedding.linear_2"}
#: The published models draw four views.
VIEWS = 4


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a ``.pt``/``.ckpt`` (nothing in it is executed) or ``.safetensors`` file.

    Raises:
        ValueError: no such file, or one that holds no tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint {str(path)!r}: no such file")
    choose("suffix of the checkpoint", path.suffix, dict.fromkeys((".pt", ".pth", ".ckpt", ".safetensors")))
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        check_safetensors(path)
        return load_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises several kinds for a file that is none of its own
        line = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"checkpoint {str(path)!r} cannot be read: {line[0]}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(torch.is_tensor(value) for value in state.values()):
        raise ValueError(f"checkpoint {str(path)!r} holds no tensors by name")
    return state


def unet_of(state: dict[str, Tensor], config: dict, n_views: int = VIEWS) -> nn.Module:
    """The checkpoint's U-Net as a multi-view one.

    Args:
        state: named as published. config: of the diffusers U-Net that it was trained on from (Stable Diffusion 2.1's).

    Raises:
        ValueError: layers are missing, of another size, or unknown (the first few are named).
    """
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    named = {key: value for key, value in state.items() if key.startswith(PREFIX)}
    lost = [PREFIX + layer for layer in CAMERA_LAYERS if PREFIX + layer + ".weight" not in named]
    if lost:
        raise UserError(f"this is no checkpoint of MVDream: it lacks {', '.join(lost)}")
    cameras = {}
    for ours, theirs in ((diffusers, PREFIX + layer) for layer, diffusers in CAMERA_LAYERS.items()):
        for kind in ("weight", "bias"):
            cameras[f"{ours}.{kind}"] = named.pop(f"{theirs}.{kind}")
    width = cameras["class_embedding.linear_1.weight"].shape[1]
    if width != WIDTH:
        raise UserError(f"this checkpoint is told {width} numbers of a camera; known: c2w, {WIDTH} numbers")
    unet = UNet2DConditionModel.from_config(
        {**config, "class_embed_type": "projection", "projection_class_embeddings_input_dim": width}
    )
    weights = convert_ldm_unet_checkpoint(named, {**config, "class_embed_type": None}) | cameras
    wanted = unet.state_dict()
    wrong = [f"{key} (missing)" for key in wanted if key not in weights]
    wrong += [f"{key} (unknown)" for key in weights if key not in wanted]
    wrong += [
        f"{key} {tuple(value.shape)} for {tuple(wanted[key].shape)}"
        for key, value in weights.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    if wrong:
        raise UserError(f"this checkpoint does not fit the base model's U-Net: {len(wrong)} layers, {wrong[0]}")
    unet.load_state_dict({key: value.float() for key, value in weights.items()})
    attend(unet, n_views)
    return unet.eval().requires_grad_(False)


def convert(checkpoint: str | Path, base: str, out: str | Path, size: int = 256, n_views: int = VIEWS) -> Path:
    """Write a multi-view teacher's folder: the checkpoint's U-Net, everything else from `base`.

    Args:
        base: diffusers folder or hub id of the model that it was trained on from. size: of its pictures, pixels.

    Raises:
        ValueError, FileNotFoundError: one line naming what is wrong; nothing is left half-written.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    name = check_teacher(base)
    out = require_writable("out", out)
    state = read_checkpoint(checkpoint)
    factor = 2 ** (len(AutoencoderKL.load_config(name, subfolder="vae")["block_out_channels"]) - 1)
    config = dict(UNet2DConditionModel.load_config(name, subfolder="unet"))
    unet = unet_of(state, {**config, "sample_size": size // factor}, n_views)
    source = local_folder(name)
    for part in TEACHER_PARTS:
        if part != "unet":
            folder_atomically(out / part, partial(shutil.copytree, source / part))
    folder_atomically(out / "unet", partial(save_multi_view, unet.half(), Mark(n_views)))
    # last: without it a folder is no teacher
    atomically(out / "model_index.json", partial(shutil.copyfile, source / "model_index.json"))
    return out
