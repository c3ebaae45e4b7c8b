"""An EDM network behind the contract of all teachers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ...core import VarianceExploding
from ...core.errors import choose
from ..contract import Condition, Conditions, DiffusionTeacher, frozen
from ..fingerprint import of_tensors
from ..sampling import HeunSampler
from .precond import EDMPrecond
from .presets import build_network


class ClassConditions(Conditions):
    """Classes 0 … K − 1 of a network, drawn by `frequencies` [K] (None: all alike); none where it has no classes."""

    def __init__(self, classes: int, frequencies: Tensor | None = None) -> None:
        self.count = classes
        if classes:
            self.frequencies = torch.full((classes,), 1 / classes) if frequencies is None else frequencies

    def of(self, rows: Tensor | None, device: torch.device) -> Condition:
        return one_hot_or_none(rows if rows is None else rows.to(device), self.count)


class EDMTeacher(DiffusionTeacher):
    """A frozen EDM network: pixels in −1..1, α = 1, t = σ."""

    def __init__(self, network: EDMPrecond, name: str = "EDM network") -> None:
        self.network, self.name = frozen(network), name
        self.process = VarianceExploding()
        self.denoising = {"weighting": "edm", "sigma_data": network.sigma_data}

    @property
    def shape(self) -> tuple[int, int, int]:
        net = self.network
        return (net.img_channels, net.img_resolution, net.img_resolution)

    def predict_x0(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.network(x_t, t, condition)

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return images * 2 - 1

    def draw(self, x0: Tensor) -> Tensor:
        return x0 * 0.5 + 0.5

    def solve(self, noise: Tensor, condition: Condition, null: Condition, scale: float, steps: int) -> Tensor:
        """Heun's method; an EDM network has no unconditional branch, so `scale` must be 1."""
        if scale != 1.0:
            raise ValueError(f"guidance_scale={scale} needs an unconditional branch, and EDM networks have none")
        return HeunSampler(steps)(self.network, noise, condition)

    def learner(self, kind: str = "full", dropout: float = 0.0) -> EDMPrecond:
        """A full copy in training mode, with its own dropout."""
        choose("kind of EDM learner", kind, {"full": None})
        copy = build_network(self.network.config, dropout=dropout)
        copy.load_state_dict(self.network.state_dict())
        return copy.to(next(self.network.parameters()).device).requires_grad_(True).train()

    def to(self, device: torch.device) -> EDMTeacher:
        self.network.to(device)
        return self

    def compile_parts(self) -> None:
        self.network.compile_parts()

    def fingerprint(self) -> str:
        return of_tensors(self.network.state_dict(), self.network.config)


def one_hot_or_none(labels: Tensor | None, classes: int) -> Any:
    """[B] class indices → [B, K] floats, None for a network without classes."""
    return one_hot(labels, classes).float() if classes else None
