"""Which images each step, process and micro-batch sees: a function of (seed, step, global index) alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from .base import ImageData


class StepSampler(Sampler):
    """Indices of one step after the other: endless passes over the data, each in a new order.

    Args:
        size: images in the data set.
        batch: global batch of one update; must divide by `world`.
        steps, start: the run ends at step `steps`; iteration begins at `start` (a resumed run).
        updates: updates per step that want real images.
        rank, world: of this process.
        seed: of the order.
    Yields a list of `updates` × batch / world indices per step, update by update.
    """

    def __init__(
        self, size: int, batch: int, steps: int, *, start: int = 0, updates: int = 1, rank: int = 0, world: int = 1,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.size, self.batch, self.steps, self.start = size, batch, steps, start
        self.updates, self.rank, self.world, self.seed = updates, rank, world, seed
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Steps that are left."""
        return self.steps - self.start

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self.size))
        return self._order[1]

    def indices(self, step: int) -> list[int]:
        """This process's indices at a step."""
        share = self.batch // self.world
        within = np.arange(share) + self.rank * share
        update = step * self.updates + np.arange(self.updates)
        positions = (update[:, None] * self.batch + within[None]).ravel()
        return [int(self._permutation(p // self.size)[p % self.size]) for p in positions.tolist()]

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            yield self.indices(step)


def image_loader(data: ImageData, sampler: StepSampler, workers: int = 0) -> DataLoader:
    """Batches (images, labels) in the sampler's order."""
    return DataLoader(
        data, batch_sampler=sampler, num_workers=workers, collate_fn=_as_read, pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )  # fmt: skip


def _as_read(batch):
    """`__getitems__` answers whole batches."""
    return batch
