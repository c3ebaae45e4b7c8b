"""Start a larger teacher from a smaller one's weights: what both have in common is copied, the rest starts fresh."""

from __future__ import annotations

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .judge import Judge, load_judge

_LEVEL = re.compile(r"^encoder\.down_blocks\.(\d+)\.")


def _spread(old: Tensor, like: Tensor, rows: list[int] | None, columns: list[int] | None) -> Tensor:
    """``like`` with ``old`` written into these rows (dimension 0) and columns (dimension 1)."""
    new = like.clone()
    target = new if rows is None else new[rows]
    if columns is None or old.ndim == 1:
        target[...] = old
    else:
        target[:, columns] = old
    if rows is not None:
        new[rows] = target
    return new


@torch.no_grad()
def start_vae(model: AutoencoderKL, folder: Path) -> int:
    """Copy the autoencoder in ``folder``/vae into one with one level more at the fine end and at least as many latent
    channels; return how many of its tensors are now the old one's, in whole or in part.

    The old levels keep their resolution in pixels: its picture is the new one's after the first halving. Its latent
    channels become the first ones. Tensors whose shape differs otherwise stay as they were initialised.
    """
    old = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    few, many = old.config.latent_channels, model.config.latent_channels
    moments = [*range(few), *range(many, many + few)]  # means, then log variances
    means = list(range(few))
    parts = {
        "encoder.conv_out": (moments, None), "quant_conv": (moments, moments), "post_quant_conv": (means, means),
        "decoder.conv_in": (None, means),
    }  # fmt: skip
    state, copied = model.state_dict(), 0
    for name, value in old.state_dict().items():
        target = _LEVEL.sub(lambda match: f"encoder.down_blocks.{int(match[1]) + 1}.", name)
        module = target.rpartition(".")[0]
        if module in parts:
            state[target] = _spread(value, state[target], *parts[module])
        elif target in state and state[target].shape == value.shape:
            state[target] = value
        else:
            continue
        copied += 1
    model.load_state_dict(state)
    return copied


@torch.no_grad()
def start_text_encoder(model: CLIPTextModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Copy the text encoder in ``folder``; a token keeps its meaning whatever its number, new words start fresh."""
    old = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
    numbers = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer").get_vocab()
    state = old.state_dict()
    (name,) = (key for key in state if key.endswith("token_embedding.weight"))
    table = model.state_dict()[name].clone()
    for token, number in tokenizer.get_vocab().items():
        if token in numbers:
            table[number] = state[name][numbers[token]]
    model.load_state_dict(state | {name: table})


@torch.no_grad()
def start_unet(model: UNet2DConditionModel, folder: Path) -> None:
    """Copy all of the U-Net in ``folder`` but its first and last convolution, see :func:`bridge_latents`."""
    old = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").state_dict()
    model.load_state_dict({k: v for k, v in old.items() if not k.startswith(("conv_in.", "conv_out."))}, strict=False)


@torch.no_grad()
def bridge_latents(
    model: UNet2DConditionModel, vae: AutoencoderKL, pictures: Float[Tensor, "n 3 s s"], folder: Path
) -> Float[Tensor, "o c"]:
    """Set first and last convolution so that the U-Net of ``folder`` works on the latents of ``vae``, roughly.

    The matrix A that best predicts the old autoencoder's latents of the halved pictures from the new ones' (least
    squares) goes in front of the old first convolution, its transpose behind the last: predicted noise goes back the
    way the latents came. Returns A.
    """
    old_vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").eval()
    ours, theirs = [], []
    for part in pictures.split(50):
        ours.append(vae.encode(part).latent_dist.mean)
        theirs.append(old_vae.encode(F.avg_pool2d(part, 2)).latent_dist.mean)
    x, y = (torch.cat(parts).movedim(1, -1).flatten(0, -2).double() for parts in (ours, theirs))
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    matrix = torch.linalg.lstsq(x, y).solution.T[:, :-1]  # without the shift of the mean
    old = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    first, last = old.conv_in, old.conv_out
    model.conv_in.weight.copy_(torch.einsum("wohk,oc->wchk", first.weight.double(), matrix))
    model.conv_in.bias.copy_(first.bias)
    model.conv_out.weight.copy_(torch.einsum("oc,owhk->cwhk", matrix, last.weight.double()))
    model.conv_out.bias.copy_(matrix.T @ last.bias.double())
    return matrix


def start_judge(model: Judge, path: Path) -> None:
    """Copy the judge in ``path``; heads that it lacks start fresh. Raises ValueError where both differ in what a head
    names or in their channels."""
    old = load_judge(path)
    shared = {head: model.names[head] for head in old.names}
    if (shared, old.channels) != (old.names, model.channels):
        raise ValueError(f"judge {path} has other channels or other names and cannot be started from")
    model.load_state_dict(old.state_dict(), strict=False)
