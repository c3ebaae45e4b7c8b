"""What a method may add to the estimator: regression, data fidelity, reward. All losses are [B], unreduced.

The adversarial term is `ratio.generator_loss`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from .errors import choose, require_shape

REGRESSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": lambda x, y: (x - y).square(),
    "l1": lambda x, y: (x - y).abs(),
    "huber": lambda x, y: huber_loss(x, y, reduction="none"),
}


def regression_loss(generated: Tensor, target: Tensor, kind: str | Callable = "l2") -> Tensor:
    """Mean distance of g(z) to the teacher's ODE solution from the same z (DMD).

    `kind` is a row of `REGRESSIONS` or a callable (x, y) ↦ [B] such as a perceptual distance.
    """
    require_shape("target", target, generated.shape)
    if callable(kind):
        distance = kind(generated, target)
        require_shape("the regression distance", distance, generated.shape[:1])
        return distance
    return choose("regression", kind, REGRESSIONS)(generated, target).flatten(1).mean(1)


def data_fidelity_loss(x0: Tensor, measurement: Tensor, operator: Callable[[Tensor], Tensor]) -> Tensor:
    """‖y − A(x_0)‖² [B] of an inverse problem (RED-diff); `operator` is A, `measurement` is y [B, ...]."""
    predicted = operator(x0)
    require_shape("measurement", measurement, predicted.shape)
    return (measurement - predicted).square().flatten(1).sum(1)


def reward_loss(x0: Tensor, reward: Callable[[Tensor], Tensor]) -> Tensor:
    """−reward(x_0) [B]; `reward` maps [B, ...] to [B], higher is better, and must be differentiable."""
    value = reward(x0)
    require_shape("the reward", value, x0.shape[:1])
    if x0.requires_grad and torch.is_grad_enabled() and not value.requires_grad:
        raise ValueError("the reward is not differentiable in x0")
    return -value
