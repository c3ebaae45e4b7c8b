"""Distances of the score gap: d(δ) and its slope d'(δ)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .process import per_sample


@dataclass(frozen=True)
class Distance:
    """d(δ) [B] and d'(δ) [B, ...] of the score gap, with scale c."""

    value: Callable[[Tensor, float], Tensor]
    slope: Callable[[Tensor, float], Tensor]


def sum_per_sample(x: Tensor) -> Tensor:
    """Σ over everything but the batch."""
    return x.flatten(1).sum(1)


def _huber_radius(gap: Tensor, c: float) -> Tensor:
    # c grows with √D so that it means the same per element at every resolution.
    return torch.sqrt(sum_per_sample(gap * gap) + c * c * gap[0].numel())


DISTANCES: dict[str, Distance] = {
    "l2": Distance(lambda gap, c: sum_per_sample(gap * gap), lambda gap, c: 2 * gap),
    "pseudo_huber": Distance(
        lambda gap, c: _huber_radius(gap, c) - c * gap[0].numel() ** 0.5,
        lambda gap, c: gap / per_sample(_huber_radius(gap, c), gap),
    ),
}
