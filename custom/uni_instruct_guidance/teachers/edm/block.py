"""The residual block that DDPM++, NCSN++ and ADM are made of; a `BlockStyle` says how they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .layers import Conv2d, GroupNorm, Linear, Resample, ResampledConv2d

Init = Callable[[nn.Module], None]


@dataclass(frozen=True)
class BlockStyle:
    """What differs between the architectures.

    heads: attention heads, or None for one head per 64 channels.
    skip_scale: every residual sum is multiplied by it (√½ keeps the variance).
    eps: of the group norms.
    project_resampled: a resampled shortcut gets a 1×1 convolution even if the channels stay the same.
    adaptive_scale: the embedding scales and shifts the second norm's output; otherwise it is added before that norm.
    init, init_attention, init_last: initialisation of the layers, of the qkv layer, of the last layer of each branch.
    """

    heads: int | None
    skip_scale: float
    eps: float
    project_resampled: bool
    adaptive_scale: bool
    init: Init
    init_attention: Init
    init_last: Init


def xavier(layer: nn.Module, gain: float = 1.0) -> None:
    """Xavier-uniform weight times `gain`, bias zero."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def torch_default(layer: nn.Module) -> None:
    """Weight and bias uniform in ±1/√fan_in, as PyTorch draws them."""
    layer.reset_parameters()


def zero(layer: nn.Module) -> None:
    """Weight and bias zero: the branch starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


# DDPM++ and NCSN++ (Song et al. 2021), ADM (Dhariwal and Nichol 2021), as EDM (Karras et al. 2022) trains them.
SONG = BlockStyle(
    heads=1, skip_scale=0.5**0.5, eps=1e-6, project_resampled=True, adaptive_scale=False,
    init=xavier, init_attention=partial(xavier, gain=0.2**0.5), init_last=partial(xavier, gain=1e-5),
)  # fmt: skip
ADM = BlockStyle(
    heads=None, skip_scale=1.0, eps=1e-5, project_resampled=False, adaptive_scale=True,
    init=torch_default, init_attention=torch_default, init_last=zero,
)  # fmt: skip


class UNetBlock(nn.Module):
    """norm → silu → (resample) conv → embedding → silu → conv, plus shortcut, then optional self-attention.

    Args:
        emb_channels: of the noise and class embedding.
        style: see `BlockStyle`.
        dropout: probability before the second convolution, in training mode.
        resample: "up", "down" or None.
        taps: resampling filter.
        attention: self-attention over the pixels after the residual sum.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        emb_channels: int,
        style: BlockStyle,
        dropout: float = 0.0,
        resample: str | None = None,
        taps: Sequence[float] = (1, 1),
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.style, self.dropout = style, dropout
        self.heads = (style.heads or max(1, out_channels // 64)) if attention else 0
        if self.heads and out_channels % self.heads:
            raise ValueError(f"{out_channels} channels do not divide among {self.heads} attention heads")
        up = resample == "up"

        self.norm0 = GroupNorm(in_channels, style.eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3)
        if resample:
            self.conv0 = ResampledConv2d(in_channels, out_channels, 3, taps, up)
        self.affine = Linear(emb_channels, out_channels * (2 if style.adaptive_scale else 1))
        self.norm1 = GroupNorm(out_channels, style.eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3)
        self.skip = self._shortcut(in_channels, out_channels, resample, taps, up)
        layers = [self.conv0, self.affine, *([self.skip] if isinstance(self.skip, nn.Conv2d) else [])]
        if attention:
            self.norm2 = GroupNorm(out_channels, style.eps)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1)
            self.proj = Conv2d(out_channels, out_channels, 1)
            style.init_attention(self.qkv)
            style.init_last(self.proj)
        for layer in layers:
            style.init(layer)
        style.init_last(self.conv1)

    def _shortcut(self, in_channels, out_channels, resample, taps, up) -> nn.Module:
        if resample and (self.style.project_resampled or in_channels != out_channels):
            return ResampledConv2d(in_channels, out_channels, 1, taps, up)
        if resample:
            return Resample(taps, up)
        return Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Float[Tensor, "B C h w"], emb: Float[Tensor, "B E"]) -> Float[Tensor, "B D H W"]:
        h = self.conv0(F.silu(self.norm0(x)))
        emb = self.affine(emb)[:, :, None, None].to(h.dtype)
        if self.style.adaptive_scale:
            scale, shift = emb.chunk(2, dim=1)
            h = F.silu(self.norm1(h) * (1 + scale) + shift)
        else:
            h = F.silu(self.norm1(h + emb))
        h = self.conv1(F.dropout(h, self.dropout, self.training))
        x = (self.skip(x) + h) * self.style.skip_scale
        return (x + self._attend(x)) * self.style.skip_scale if self.heads else x

    def _attend(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        # The published qkv layer orders its output channels by head, then by channel, then query / key / value.
        q, k, v = self.qkv(self.norm2(x)).unflatten(1, (self.heads, -1, 3)).flatten(4).transpose(2, 4).unbind(3)
        mixed = F.scaled_dot_product_attention(q, k, v)  # [B, heads, pixels, channels of a head]
        return self.proj(mixed.transpose(2, 3).reshape(x.shape))
