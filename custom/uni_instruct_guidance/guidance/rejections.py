"""Steps that taught nothing because every sample was rejected."""

from __future__ import annotations

import threestudio

from ..core.errors import UserError


class Rejections:
    """Counts such steps, and gives up on a run of them.

    Args:
        limit: so many in a row end the run.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.steps, self.in_a_row = limit, 0, 0

    def count(self, rejected: int, batch: int, step: int) -> None:
        """Note a step in which so many of `batch` samples were rejected.

        Raises:
            UserError: the last of `limit` steps in a row without one that was not.
        """
        if rejected < batch:
            self.in_a_row = 0
            return
        self.steps += 1
        self.in_a_row += 1
        why = "teacher, fake score or renderings are not finite (NaN or Inf) for any sample of the batch"
        if self.steps == 1:
            threestudio.warn(f"step {step}: {why}; such steps teach nothing and are counted as rejected")
        if self.in_a_row >= self.limit:
            raise UserError(
                f"stopped at step {step}: {why}, {self.in_a_row} steps in a row "
                "(system.guidance.max_rejected_steps); check the teacher's weights, or set "
                "system.guidance.half_precision_weights=false"
            )
