"""A teacher whose x̂0 is known in closed form: pictures are normal around what they are told, in pixels −1..1."""

from __future__ import annotations

import torch
from torch import Tensor

from uni_instruct_guidance.core import ContinuousVP, per_sample
from uni_instruct_guidance.teachers.contract import DiffusionTeacher


class GaussianTeacher(DiffusionTeacher):
    """x0 ~ N(condition, spread²), per pixel; conditions are means [B, C, h, w]. `asked` counts network calls."""

    name, guidable, denoising = "normal", True, {}

    def __init__(self, shape=(3, 8, 8), spread: float = 0.5, guidable: bool = True) -> None:
        self.process, self._shape, self.spread, self.asked = ContinuousVP(), shape, spread, 0
        self.guidable = guidable

    @property
    def shape(self):
        return self._shape

    def predict_x0(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        self.asked += 1
        alpha, sigma = (per_sample(part, x_t) for part in self.process.alpha_sigma(t))
        mean = torch.zeros_like(x_t) if condition is None else condition
        gain = alpha * self.spread**2 / (alpha.square() * self.spread**2 + sigma.square())
        return mean + gain * (x_t - alpha * mean)

    def encode(self, images: Tensor, generator=None) -> Tensor:
        return images * 2 - 1

    def draw(self, x0: Tensor) -> Tensor:
        return x0 * 0.5 + 0.5

    def solve(self, noise, condition, null, scale, steps):
        raise NotImplementedError

    def learner(self, kind: str = "full", **options):
        raise NotImplementedError

    def to(self, device):
        return self

    def compile_parts(self) -> None: ...

    def fingerprint(self) -> str:
        return "normal"
