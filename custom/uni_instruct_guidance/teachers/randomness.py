"""Random numbers that depend on (seed, step, purpose, global sample index) and on nothing else.

So a resumed run repeats them, several processes draw what one would draw for the same global batch, and the size of a
micro-batch changes nothing.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Samples whose noise comes from one generator: a process draws the blocks that overlap its share of the batch.
BLOCK = 64


def generator(seed: int, step: int, purpose: str, index: int = 0, device: torch.device | str = "cpu"):
    """A torch.Generator seeded by the four."""
    key = np.random.SeedSequence([seed, step, zlib.crc32(purpose.encode()), index])
    return torch.Generator(device).manual_seed(int(key.generate_state(1, np.uint64)[0] >> np.uint64(1)))


@dataclass(frozen=True)
class Share:
    """The part [first, first + count) of a global batch of `total` samples that this call handles."""

    first: int
    count: int
    total: int

    def micro(self, size: int | None) -> list[Share]:
        """Consecutive parts of at most `size` samples (None: one part)."""
        size = size or self.count
        starts = range(self.first, self.first + self.count, size)
        return [Share(start, min(size, self.first + self.count - start), self.total) for start in starts]

    def of(self, values: Tensor) -> Tensor:
        """This share of something drawn for the whole batch [total, ...]."""
        return values[self.first : self.first + self.count]


@dataclass(frozen=True)
class StepRandom:
    """The random numbers of one update.

    Attributes:
        seed, step: of the run.
        purpose: which update of the step; streams of different purposes are independent.
        device: where noise is drawn; another kind of device draws other numbers.
    """

    seed: int
    step: int
    purpose: str
    device: torch.device | str = "cpu"

    def generator(self, name: str, index: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
        """For small things drawn for the whole global batch: noise levels, labels."""
        return generator(self.seed, self.step, f"{self.purpose}/{name}", index, device)

    def normal(self, name: str, share: Share, shape: tuple[int, ...]) -> Tensor:
        """Unit normal [share.count, *shape]."""
        first, last = share.first // BLOCK, (share.first + share.count - 1) // BLOCK
        blocks = [
            torch.randn(BLOCK, *shape, generator=self.generator(name, block, self.device), device=self.device)
            for block in range(first, last + 1)
        ]
        start = share.first - first * BLOCK
        return torch.cat(blocks)[start : start + share.count]

    def labels(self, name: str, share: Share, frequencies: Tensor) -> Tensor:
        """Class indices [share.count], on the CPU, class k with probability ∝ frequencies[k]."""
        drawn = torch.multinomial(frequencies, share.total, replacement=True, generator=self.generator(name))
        return share.of(drawn)
