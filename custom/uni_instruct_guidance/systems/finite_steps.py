"""A step whose gradient holds NaN or Inf is skipped, counted and reported."""

from __future__ import annotations

import torch
from torch import Tensor

import threestudio


def all_finite(tensors: list[Tensor]) -> bool:
    """Whether no entry of any of them is NaN or Inf."""
    if tensors and tensors[0].device.type == "cpu":
        # a norm of many small ones takes several times as long; where a sum is not finite it may only be too large
        return all(bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all()) for tensor in tensors)
    # the largest entry of all, so that the host waits for the device once and not for every parameter
    return not tensors or bool(torch.isfinite(torch.nn.utils.get_total_norm(tensors, float("inf"))))


class FiniteSteps:
    """Mixin for Lightning modules. Needs `self.cfg.max_skipped_steps`."""

    skipped_steps: int = 0
    skipped_in_a_row: int = 0

    def on_before_optimizer_step(self, optimizer) -> None:
        parent = getattr(super(), "on_before_optimizer_step", None)
        if parent is not None:
            parent(optimizer)
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if all_finite(grads):
            self.skipped_in_a_row = 0
            return
        optimizer.zero_grad(set_to_none=True)  # Adam leaves parameters without a gradient as they are
        self.skipped_steps += 1
        self.skipped_in_a_row += 1
        self.log("train/skipped_steps", float(self.skipped_steps))
        threestudio.warn(f"step {self.global_step}: non-finite gradient, step skipped ({self.skipped_steps} so far)")
        if self.skipped_in_a_row >= self.cfg.max_skipped_steps:
            raise ValueError(
                f"{self.skipped_in_a_row} consecutive steps had non-finite gradients (system.max_skipped_steps); "
                f"lower the learning rates or system.guidance.guidance_scale"
            )
