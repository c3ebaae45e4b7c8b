"""Randomness that depends on (seed, rank, step) alone, so that a resumed run repeats what the interrupted one did.

Nothing about random generators has to be kept in checkpoints: before each training step all global generators are
seeded from the step, and the data loader draws each batch from a generator of its own, keyed by the batch's index.
"""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from threestudio.utils.misc import get_rank

#: Streams that must not share their numbers.
STEP, BATCH = 0, 1


def run_seed() -> int | None:
    """Seed that ``pytorch_lightning.seed_everything`` was given; None if it was not called."""
    seed = os.environ.get("PL_GLOBAL_SEED")
    return int(seed) if seed else None


def derived_seed(stream: int, *index: int) -> int:
    """Well mixed 63-bit seed for item ``index`` of ``stream`` in this process."""
    sequence = np.random.SeedSequence([run_seed() or 0, get_rank(), stream, *index])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_step(global_step: int, batch_idx: int = 0) -> None:
    """Seed Python's, NumPy's and torch's global generators for one training batch, if the run has a seed.

    Args:
        batch_idx: tells the batches apart that accumulate gradients for one step.
    """
    if run_seed() is None:
        return
    seed = derived_seed(STEP, global_step, batch_idx)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the legacy generator is what other libraries draw from
    torch.manual_seed(seed)


def batch_generator(index: int) -> torch.Generator:
    """CPU generator for training batch ``index``."""
    return torch.Generator().manual_seed(derived_seed(BATCH, index))
