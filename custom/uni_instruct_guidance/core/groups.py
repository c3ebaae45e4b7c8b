"""Samples of several views: the rows of a batch are single views, `n` consecutive ones are a sample of the objective.

A teacher that draws n views of one object at once gives a score of all of them together, so norms, weights and the
density ratio run over the whole group. With n = 1 everything here gives back what it got.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """Rows [B, ...] and groups [B/n, ...] of the same batch; B is a multiple of n."""

    n: int = 1

    def count(self, rows: int) -> int:
        """Groups in so many rows."""
        return rows // self.n

    def fold(self, x: Tensor) -> Tensor:
        """[B, C, ...] → [B/n, n·C, ...]: the views of a group one after the other in the channels."""
        return x if self.n == 1 else x.unflatten(0, (-1, self.n)).flatten(1, 2)

    def split(self, x: Tensor) -> Tensor:
        """[B/n, n·C, ...] → [B, C, ...], the inverse of `fold`."""
        return x if self.n == 1 else x.unflatten(1, (self.n, -1)).flatten(0, 1)

    def mean(self, values: Tensor) -> Tensor:
        """[B] → [B/n]: one number for the group from one of each view, such as a logit."""
        return values if self.n == 1 else values.unflatten(0, (-1, self.n)).mean(1)

    def rows(self, values: Tensor) -> Tensor:
        """[B/n] → [B]: what holds for a group, such as its noise level, for each of its views."""
        return values if self.n == 1 else values.repeat_interleave(self.n, 0)

    def repeat(self, x: Tensor, times: int) -> Tensor:
        """[B, ...] → [times·B, ...]: every group `times` times in a row, whole."""
        return x.unflatten(0, (-1, self.n)).repeat_interleave(times, 0).flatten(0, 1)
