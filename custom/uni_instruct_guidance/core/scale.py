"""Guidance composition and a gradient scale that does not depend on the method."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .errors import choose
from .process import per_sample


def classifier_free(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """u + scale·(c − u); scale 1 is the conditional prediction, 0 the unconditional one.

    Linear, so it may act on ε̂, v̂, x̂0 or scores alike. `scale` is a number or [B].
    """
    if isinstance(scale, Tensor) and scale.ndim:
        scale = per_sample(scale, conditional)
    return unconditional + scale * (conditional - unconditional)


def rescale_guidance(guided: Tensor, conditional: Tensor, amount: float) -> Tensor:
    """Pull the guided prediction's spread back to the conditional one's by `amount` in [0, 1] (Lin et al. 2023)."""
    if not 0 <= amount <= 1:
        raise ValueError(f"guidance_rescale={amount!r} must be in [0, 1]")
    spread = [per_sample(x.flatten(1).std(1), x) for x in (conditional, guided)]
    return guided * (1 - amount + amount * spread[0] / spread[1].clamp_min(1e-8))


def perpendicular_negative(
    cond: Tensor, uncond: Tensor, negative_1: Tensor, negative_2: Tensor, weights: Float[Tensor, "B 2"], scale: float
) -> Float[Tensor, "B *shape"]:
    """Guidance away from two negative prompts, each reduced to its part perpendicular to the positive one
    (arXiv 2304.04968, Eq. 8). Written for ε̂; it holds for x̂0 as well, which is linear in ε̂ at fixed x_t."""
    positive = cond - uncond
    axes = tuple(range(1, positive.ndim))
    push = positive
    for negative, weight in zip((negative_1, negative_2), weights.unbind(1)):
        away = negative - uncond
        # the floor only matters where the positive direction vanishes; there everything is perpendicular to it
        share = (away * positive).sum(axes, keepdim=True) / positive.square().sum(axes, keepdim=True).clamp_min(1e-6)
        push = push + per_sample(weight, push) * (away - share * positive)
    return uncond + scale * push


SCALE_MODES = ("none", "running", "batch")


class GradientScale(nn.Module):
    """Brings a gradient to a size that is the same for every method.

    Methods of the family differ several-fold in gradient norm, so learning rates and regularisers tuned for one ruin
    the other. `running` divides by an exponential mean of the batch's RMS (relative sizes within a batch and from step
    to step survive); `batch` divides by the current RMS; `none` only clips.

    Args:
        mode: `none`, `running` or `batch`.
        target: RMS per element after scaling (`running`, `batch`).
        decay: of the exponential mean.
        max_ratio: a sample whose RMS exceeds this many times the reference is shortened to it; None never clips.
    The running mean is a buffer: it is saved, and resuming continues it.
    """

    def __init__(self, mode: str = "running", target: float = 1.0, decay: float = 0.99, max_ratio: float | None = 10.0):
        super().__init__()
        choose("gradient_scale.mode", mode, dict.fromkeys(SCALE_MODES))
        if not (target > 0 and 0 <= decay < 1):
            raise ValueError(f"gradient_scale needs target > 0 and 0 <= decay < 1, got {target}, {decay}")
        self.mode, self.target, self.decay, self.max_ratio = mode, target, decay, max_ratio
        self.register_buffer("mean_square", torch.zeros(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @property
    def running_rms(self) -> Tensor:
        """RMS of past gradients, corrected for the start at zero."""
        correction = 1 - self.decay ** self.updates.clamp_min(1)
        return (self.mean_square / correction).sqrt()

    @torch.no_grad()
    def forward(self, grad: Tensor) -> Tensor:
        """Scaled copy of `grad` [B, ...]; samples that are not finite become zero and leave the mean alone."""
        finite = torch.isfinite(grad).flatten(1).all(1)
        grad = torch.where(per_sample(finite, grad), grad, torch.zeros_like(grad))
        square = grad.float().flatten(1).square().mean(1)
        current = square.sum() / finite.sum().clamp_min(1)
        if self.training and bool(finite.any()):
            self.mean_square.mul_(self.decay).add_((1 - self.decay) * current)
            self.updates.add_(1)
        reference = self.running_rms if self.mode != "batch" else current.sqrt()
        reference = reference.clamp_min(torch.finfo(torch.float32).tiny)
        if self.max_ratio is not None:
            limit = self.max_ratio * reference / square.sqrt().clamp_min(torch.finfo(torch.float32).tiny)
            grad = grad * per_sample(limit.clamp(max=1.0), grad).to(grad.dtype)
        return grad if self.mode == "none" else grad * (self.target / reference).to(grad.dtype)
