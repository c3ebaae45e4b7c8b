"""What no test inherits: neither from the one before it nor from whichever file is asked for first."""

from __future__ import annotations

import os
import sys

import pytest
import pytorch_lightning as pl
import torch

import uni_instruct_guidance.core  # noqa: F401  the way tests of the mathematics begin: no host is asked for

NAMES = ("uni-instruct-system", "uni-instruct-guidance", "uni-instruct-volume", "random-multiview-camera-datamodule")


@pytest.mark.parametrize("name", NAMES)
def test_the_host_was_there_before_the_extension(name):
    """Else not every name that a configuration may have is registered."""
    assert name in sys.modules["threestudio"].__modules__


@pytest.mark.parametrize("time", [1, 2])
def test_what_a_run_leaves_in_the_process_ends_with_its_test(time):
    """Batches and steps are drawn from the run's seed; sums differ in their last bits with the number of threads."""
    assert "PL_GLOBAL_SEED" not in os.environ and torch.get_num_threads() != 3
    pl.seed_everything(7, verbose=False)
    torch.set_num_threads(3)
