"""Layers of the EDM U-Nets: they compute in the dtype of their input, whatever dtype the parameters are kept in.

So one set of float32 parameters serves a float32, half-precision or (in tests) float64 pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, pi

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Linear(nn.Linear):
    """y = x Wᵀ + b in the dtype of x."""

    def forward(self, x: Float[Tensor, "... c"]) -> Float[Tensor, "... d"]:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class GroupNorm(nn.GroupNorm):
    """Group normalisation with as many groups as divide the channels, at most 32 and at least 4 channels in each."""

    def __init__(self, channels: int, eps: float) -> None:
        groups = next(g for g in range(max(1, min(32, channels // 4)), 0, -1) if channels % g == 0)
        super().__init__(groups, channels, eps=eps)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class Conv2d(nn.Conv2d):
    """Convolution of odd size with "same" padding, in the dtype of x."""

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__(in_channels, out_channels, size, padding=size // 2)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h w"]:
        return F.conv2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), padding=self.padding)


class Resample(nn.Module):
    """Twice or half the resolution with a separable filter; the box filter [1, 1] doubles or averages pixels.

    Args:
        taps: one-dimensional filter of even length, any scale, e.g. (1, 1) or (1, 3, 3, 1).
        up: double the resolution; otherwise halve it.
    """

    def __init__(self, taps: Sequence[float], up: bool) -> None:
        super().__init__()
        self.register_buffer("resample_filter", filter_2d(taps))
        self.up, self.box = up, tuple(taps) == (1, 1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C H W"]:
        return resample(x, self.resample_filter, self.up, self.box)


class ResampledConv2d(Conv2d):
    """Resample, then convolve; with `conv_first` the convolution comes before halving the resolution."""

    def __init__(
        self, in_channels: int, out_channels: int, size: int, taps: Sequence[float], up: bool, conv_first: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, size)
        # The published names put the filter beside the weight, so it cannot sit in a `Resample` of its own.
        self.register_buffer("resample_filter", filter_2d(taps))
        self.up, self.box, self.conv_first = up, tuple(taps) == (1, 1), conv_first

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D H W"]:
        if not self.conv_first:
            return super().forward(resample(x, self.resample_filter, self.up, self.box))
        # The picture is framed by zeros once, before the convolution: its ring is convolved too, and the bias, which
        # the filter would let fade towards the frame, is added last.
        frame = self.padding[0] + (self.resample_filter.shape[-1] - 1) // 2
        x = F.conv2d(x, self.weight.to(x.dtype), padding=frame)
        x = F.conv2d(x, _per_channel(self.resample_filter, x), groups=x.shape[1], stride=2)
        return x + self.bias.to(x.dtype)[:, None, None]


def filter_2d(taps: Sequence[float]) -> Float[Tensor, "1 1 k k"]:
    """Outer product of the taps with themselves, summing to one."""
    if len(taps) % 2 or not sum(taps):
        raise ValueError(f"resample_filter={list(taps)} must have an even number of taps that do not sum to 0")
    line = torch.as_tensor(taps, dtype=torch.float32)
    return (torch.outer(line, line) / line.sum() ** 2)[None, None]


def resample(x: Float[Tensor, "B C h w"], kernel: Tensor, up: bool, box: bool) -> Float[Tensor, "B C H W"]:
    """Double (`up`) or halve the resolution with `kernel`; `box` takes the quick way for 2 × 2 equal taps."""
    if box:
        return F.interpolate(x, scale_factor=2, mode="nearest") if up else F.avg_pool2d(x, 2)
    padding = (kernel.shape[-1] - 1) // 2
    if up:  # zeros between the pixels take three quarters of the filter's mass, hence the factor
        return F.conv_transpose2d(x, 4 * _per_channel(kernel, x), groups=x.shape[1], stride=2, padding=padding)
    return F.conv2d(x, _per_channel(kernel, x), groups=x.shape[1], stride=2, padding=padding)


def _per_channel(kernel: Tensor, x: Tensor) -> Tensor:
    return kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)


class PositionalEmbedding(nn.Module):
    """[cos(ω c), sin(ω c)] with ω from 1 down to 1/10000 geometrically.

    Args:
        channels: even.
        reach_end: the last ω is exactly 1/10000 (DDPM++); otherwise one step short of it (ADM).
        sine_first: [sin, cos] instead (DDPM++).
    """

    def __init__(self, channels: int, *, reach_end: bool, sine_first: bool) -> None:
        super().__init__()
        self.half, self.reach_end, self.sine_first = channels // 2, reach_end, sine_first

    def forward(self, c_noise: Float[Tensor, "B"]) -> Float[Tensor, "B c"]:
        steps = torch.arange(self.half, device=c_noise.device, dtype=c_noise.dtype)
        omega = torch.exp(-log(10_000) * steps / (self.half - int(self.reach_end)))
        return _waves(torch.outer(c_noise, omega), self.sine_first)


class FourierEmbedding(nn.Module):
    """[sin(2π f c), cos(2π f c)] with fixed random frequencies f ~ N(0, 16²) that are part of the checkpoint."""

    def __init__(self, channels: int, spread: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(channels // 2) * spread)

    def forward(self, c_noise: Float[Tensor, "B"]) -> Float[Tensor, "B c"]:
        return _waves(torch.outer(c_noise, 2 * pi * self.freqs.to(c_noise.dtype)), sine_first=True)


def _waves(angle: Tensor, sine_first: bool) -> Tensor:
    waves = [angle.sin(), angle.cos()] if sine_first else [angle.cos(), angle.sin()]
    return torch.cat(waves, dim=1)
