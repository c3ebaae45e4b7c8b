"""The moving average of a network's weights, with a half-life counted in images."""

from __future__ import annotations

import torch
from torch import nn


def decay_of(batch: int, images_seen: int, halflife_kimg: float, rampup: float) -> float:
    """0.5^(batch / half-life); the half-life is at most `rampup` times the images seen (0: no limit)."""
    halflife = halflife_kimg * 1000
    if rampup:
        halflife = min(halflife, images_seen * rampup)
    return 0.5 ** (batch / max(halflife, 1e-8))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average ← decay · average + (1 − decay) · network; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in network.parameters()], 1 - decay)
    for kept, buffer in zip(average.buffers(), network.buffers()):
        kept.copy_(buffer)
