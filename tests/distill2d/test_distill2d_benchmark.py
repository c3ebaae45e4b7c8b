"""The benchmark of one-step methods runs, and its clock gives time to the network that spends it."""

from __future__ import annotations

import time

import benchmark
import pytest
import torch

from uni_instruct_3d.benchmarks.distill2d import Shares


def test_every_figure_is_there(tmp_path):
    arguments = ["distill2d", "--network", "digits-uncond", "--methods", "sida", "uni_instruct jkl", "--batch", "2"]
    figures = benchmark.main([*arguments, "--rounds", "1", "--steps", "1", "--device", "cpu"])
    assert set(figures["ratios"]) == {"uni_instruct jkl / sida"}
    for name in ("sida", "uni_instruct jkl"):
        row = figures[name]
        assert row["seconds_per_kimg"] == pytest.approx(500 / row["steps_per_second"], rel=0.05)
        assert row["fake_updates"] == 1 and "peak_memory_gib" not in row
        shares = row["time_percent"]
        assert {"student", "teacher", "fake score", "discriminator head", "optimisers", "other"} == set(shares)
        assert sum(shares.values()) == pytest.approx(100, abs=0.5)
        assert shares["fake score"] > shares["teacher"] > shares["discriminator head"]


class Slow(torch.autograd.Function):
    """Sleeps forwards and backwards."""

    @staticmethod
    def forward(ctx, x, seconds):
        ctx.seconds = seconds
        time.sleep(seconds)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        time.sleep(2 * ctx.seconds)
        return grad, None


class Network:
    def __init__(self, seconds):
        self.seconds = seconds

    def call(self, x):
        return Slow.apply(x, self.seconds), Slow.apply(2 * x, 0.0)


def test_clock_splits_forward_and_backward_between_networks():
    """As in the objective: both networks look at what a third one made, and one of them is asked first."""
    shares, student, fake, teacher = Shares(), Network(0.04), Network(0.02), Network(0.01)
    for label, network in (("student", student), ("fake", fake), ("teacher", teacher)):
        shares.around(network, "call", label)
    shares.switch("other")
    shares.seconds.clear()
    x, _ = student.call(torch.ones(3, requires_grad=True))
    loss = sum(fake.call(x)).sum() + sum(teacher.call(x)).sum()
    loss.backward()
    shares.switch("other")
    for label, seconds in (("student", 0.12), ("fake", 0.06), ("teacher", 0.03)):
        # Sleep is never shorter; a busy machine makes it longer.
        assert 0.95 * seconds <= shares.seconds[label] < seconds + 0.5
    assert sum(shares.percent().values()) == pytest.approx(100, abs=0.3)
