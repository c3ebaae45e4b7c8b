"""The training loop: a broken run repeats an unbroken one bit for bit, files are never half written."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from uni_instruct_3d.teacher_factory.loop import Trainer, atomic_save, ema_decay, learning_rate, step_generator
from uni_instruct_3d.teacher_factory.presets import OptimConfig

OPTIM = OptimConfig(steps=12, batch=4, lr=1e-2, warmup=3, decay=0.5)


def build() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2))


def step_of(model):
    def step(generator, _):
        x = torch.randn(4, 5, generator=generator)
        loss = (model(x) - x[:, :2]).square().mean()
        return loss, {"loss": loss.item()}

    return step


def test_resumed_run_equals_unbroken_run_bit_for_bit(tmp_path):
    whole = Trainer("toy", build(), OPTIM, tmp_path / "whole.pt", seed=5)
    whole.train(step_of(whole.model))
    first = Trainer("toy", build(), OPTIM, tmp_path / "broken.pt", seed=5)
    first.train(step_of(first.model), stop_at=5)
    torch.rand(17)  # whatever else drew random numbers in between must not matter
    second = Trainer("toy", build(), OPTIM, tmp_path / "broken.pt", seed=5)
    assert second.step == 5
    second.train(step_of(second.model))
    for name, value in whole.ema.state_dict().items():
        assert torch.equal(value, second.ema.state_dict()[name]), name
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_step_generator_depends_on_seed_phase_and_step():
    draws = {
        key: torch.rand(4, generator=step_generator(*key)).tolist()
        for key in [(0, "vae", 1), (0, "vae", 2), (1, "vae", 1), (0, "unet", 1)]
    }
    assert draws[(0, "vae", 1)] == torch.rand(4, generator=step_generator(0, "vae", 1)).tolist()
    assert len({tuple(values) for values in draws.values()}) == 4


def test_learning_rate_is_a_trapezoid():
    rates = [learning_rate(step, OPTIM) for step in range(OPTIM.steps)]
    assert rates[:3] == pytest.approx([OPTIM.lr / 3, 2 * OPTIM.lr / 3, OPTIM.lr])
    assert rates[3:7] == pytest.approx([OPTIM.lr] * 4)
    assert rates[-1] == pytest.approx(OPTIM.lr / 6)
    assert all(earlier >= later for earlier, later in pairwise(rates[3:]))


def test_ema_follows_the_closed_form(tmp_path):
    """With decay d_k the average after n steps is the recursion a <- d_k a + (1 - d_k) w, replayed here in float64."""
    trainer = Trainer("toy", build(), OPTIM, tmp_path / "ema.pt", seed=1)
    expected = trainer.model[0].weight.detach().double().clone()
    seen = []

    def step(generator, _):
        if trainer.step:
            seen.append(trainer.model[0].weight.detach().double().clone())
        return step_of(trainer.model)(generator, 0)

    trainer.train(step)
    seen.append(trainer.model[0].weight.detach().double().clone())
    for k, weight in enumerate(seen, start=1):
        decay = ema_decay(k, OPTIM.ema)
        expected = decay * expected + (1 - decay) * weight
    # float32 recursion over 12 steps: a few units in the last place
    torch.testing.assert_close(trainer.ema[0].weight.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    atomic_save({"step": torch.tensor(1)}, path)

    def broken(payload, target):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        atomic_save({"step": torch.tensor(2)}, path)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True)["step"] == 1
