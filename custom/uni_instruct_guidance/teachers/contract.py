"""What every diffusion teacher is to the rest of the house: x̂0 at x_t, given t and a condition.

Two families keep the contract: Stable-Diffusion-format folders (`stable_diffusion/`) and EDM networks (`edm/`). What
trains — a student, a fake score — is a `Denoiser` that starts from the teacher. Nothing above asks which family it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..core import NoiseProcess, classifier_free

Condition = Tensor | None  # one-hot classes [B, K], texts [B, L, D], or nothing
Features = dict[str, Tensor]


class Denoiser(Protocol):
    """A network that trains: `denoise` gives x̂0 [B, C, h, w] and the named encoder features of the same pass."""

    def denoise(
        self, x_t: Tensor, t: Tensor, condition: Condition, features: Sequence[str] = ()
    ) -> tuple[Tensor, Features]: ...

    def read_features(self, x_t: Tensor, t: Tensor, condition: Condition, features: Sequence[str]) -> Features:
        """The features alone; the decoder does not run."""

    def feature_widths(self) -> dict[str, int]:
        """Names of the features and their channels."""

    def twin(self) -> nn.Module:
        """A second one with the same weights; what is frozen is shared."""

    def compile_parts(self) -> None:
        """torch.compile, in place; names of parameters stay."""


class Conditions(ABC):
    """What a sample may be asked for, as rows of a table: classes, prompts, or nothing (count 0).

    Attributes:
        count: rows. frequencies: [count] that sum to 1, how often each row is drawn; None where count is 0.
    """

    count: int = 0
    frequencies: Tensor | None = None

    @abstractmethod
    def of(self, rows: Int[Tensor, "B"] | None, device: torch.device) -> Condition:
        """The condition of each row; None where there is none."""

    def null(self, rows: Int[Tensor, "B"], device: torch.device) -> Condition:
        """The unconditional branch of each row, for classifier-free guidance."""
        raise ValueError("this teacher has no unconditional branch: guidance must be 1")

    def texts(self, rows: Int[Tensor, "B"]) -> list[str]:
        """Each row in words, for rewards."""
        return [str(int(row)) for row in rows]


class DiffusionTeacher(ABC):
    """A frozen diffusion model.

    Attributes:
        name: for messages and the names of caches.
        process: x_t = α_t x_0 + σ_t ε; `t` is what the network takes.
        denoising: arguments of the core's `denoising_loss` for a fake score of this teacher.
        guidable: whether it has an unconditional branch.
    """

    name: str
    process: NoiseProcess
    denoising: dict
    guidable: bool = False

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a sample x_0."""

    @abstractmethod
    def predict_x0(self, x_t: Float[Tensor, "B C h w"], t: Tensor, condition: Condition) -> Float[Tensor, "B C h w"]:
        """One network call, in float32."""

    def guided(self, x_t: Tensor, t: Tensor, condition: Condition, null: Condition, scale: float) -> Tensor:
        """x̂0 under classifier-free guidance; scale 1 costs one call of the plain batch and reads no `null`."""
        return guided(lambda *inputs: (self.predict_x0(*inputs), {}), x_t, t, condition, null, scale)[0]

    @abstractmethod
    def encode(
        self, images: Float[Tensor, "B 3 H W"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B C h w"]:
        """Images in 0..1 to samples; differentiable. `generator` is for encoders that draw."""

    @abstractmethod
    def draw(self, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Samples to images in 0..1 and beyond, where they overshoot; differentiable everywhere."""

    def decode(self, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Samples to images in 0..1; differentiable inside that range."""
        return self.draw(x0).clamp(0, 1)

    @abstractmethod
    def solve(
        self, noise: Float[Tensor, "B C h w"], condition: Condition, null: Condition, scale: float, steps: int
    ) -> Float[Tensor, "B C h w"]:
        """The end x_0 of the probability-flow ODE from unit noise."""

    @abstractmethod
    def learner(self, kind: str = "full", **options) -> nn.Module:
        """A `Denoiser` with gradients that starts as this teacher: a full copy, or an adapter on it."""

    @abstractmethod
    def to(self, device: torch.device) -> DiffusionTeacher:
        """Move in place; returns itself."""

    @abstractmethod
    def compile_parts(self) -> None:
        """torch.compile, in place."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Of every weight and setting that decides a sample: a cache keyed by it is never stale."""


def guided(
    denoise: Callable[..., tuple[Tensor, Features]],
    x_t: Tensor,
    t: Tensor,
    condition: Condition,
    null: Condition,
    scale: float,
    *more,
) -> tuple[Tensor, Features]:
    """`denoise` under classifier-free guidance in one doubled pass; the features are those of the conditional half."""
    if scale == 1.0:
        return denoise(x_t, t, condition, *more)
    x0, features = denoise(torch.cat([x_t] * 2), torch.cat([t] * 2), torch.cat([condition, null]), *more)
    return classifier_free(*x0.chunk(2), scale), {name: f[: len(x_t)] for name, f in features.items()}


def frozen(network: nn.Module) -> nn.Module:
    """Without gradients, in evaluation mode."""
    return network.eval().requires_grad_(False)


def frozen_twin(denoiser: nn.Module) -> nn.Module:
    """A frozen copy of what trains, e.g. for a moving average."""
    return frozen(denoiser.twin())
