"""Noise is a function of (seed, step, purpose, global index), however the batch is split."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from uni_instruct_guidance.distill2d.ema import decay_of, update_average
from uni_instruct_guidance.teachers.contract import frozen
from uni_instruct_guidance.teachers.randomness import BLOCK, Share, StepRandom


def test_shares_draw_what_the_whole_batch_draws():
    random, total = StepRandom(1, 7, "student"), 3 * BLOCK + 5
    whole = random.normal("z", Share(0, total, total), (2, 3))
    for size in (1, 7, BLOCK, BLOCK + 1):
        parts = [random.normal("z", part, (2, 3)) for part in Share(0, total, total).micro(size)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)
    assert whole.mean().abs() < 0.1 and (whole.std() - 1).abs() < 0.1  # 1,182 values: 3 standard errors


def test_streams_differ():
    share = Share(0, 4, 4)
    draws = [
        StepRandom(seed, step, purpose).normal(name, share, (5,))
        for seed, step, purpose, name in (
            (0, 0, "a", "z"),
            (1, 0, "a", "z"),
            (0, 1, "a", "z"),
            (0, 0, "b", "z"),
            (0, 0, "a", "y"),
        )
    ]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == len(draws)


def test_labels_follow_the_frequencies():
    drawn = StepRandom(0, 0, "x").labels("labels", Share(0, 4000, 4000), torch.tensor([0.0, 0.25, 0.75]))
    share = torch.bincount(drawn, minlength=3) / 4000
    torch.testing.assert_close(share, torch.tensor([0.0, 0.25, 0.75]), atol=0.03, rtol=0)  # 4 standard errors


def test_half_life_of_the_average():
    # After as many images as the half-life, the start counts half.
    decay = decay_of(100, 10**9, halflife_kimg=1, rampup=0)
    assert decay**10 == pytest.approx(0.5)
    assert decay_of(100, 1000, halflife_kimg=500, rampup=0.05) == pytest.approx(0.5 ** (100 / 50))
    net = torch.nn.Linear(2, 1)
    average = frozen(deepcopy(net))
    start = net.weight.detach().clone()
    torch.nn.init.constant_(net.weight, 3.0)
    for _ in range(10):
        update_average(average, net, decay)
    torch.testing.assert_close(average.weight, (start + 3.0) / 2)
