"""Runs of a few steps with a tiny Stable-Diffusion-format teacher, and the gradient that one step finds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_teacher import make_tiny_teacher

from uni_instruct_guidance.distill2d.config import DistillConfig, read_config
from uni_instruct_guidance.distill2d.trainer import build_distill_module
from uni_instruct_guidance.teachers.randomness import Share

PROMPTS = ["a red mug", "a blue chair, front view", "a red chair", "a blue mug"]
BRIGHT = "def bright(images, prompts):\n    return images.mean((1, 2, 3))\n\n\ndef deaf(images, prompts):\n" \
    "    return images.detach().mean((1, 2, 3))\n"  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return make_tiny_teacher(tmp_path_factory.mktemp("teacher"), seed=3)


@pytest.fixture
def config(teacher, tmp_path):
    """(overrides) ↦ three steps of four pictures."""
    prompts, rewards = tmp_path / "prompts.txt", tmp_path / "rewards.py"
    prompts.write_text("# toys\n" + "\n".join(PROMPTS) + "\n")
    rewards.write_text(BRIGHT)

    def make(*overrides: str) -> DistillConfig:
        return read_config(
            DistillConfig,
            overrides=[
                *("steps=2", "batch=4", "lr=1e-3", "log_every=1", "grid=4", "save_every=1", "sample_every=0"),
                *("bank={count: 4, batch: 4, steps: 2, guidance_scale: 2.0}", "real=teacher", "text.t_init=700"),
                *("fake_noise.sampler=uniform_t", "student_noise.max_fraction=0.98", "trainer.accelerator=cpu"),
                *(f"teacher={teacher}", f"text.prompts={prompts}", f"bank.path={tmp_path / 'bank'}"),
                *(f"text.reward={rewards}:bright", "text.rank=2"),
                *overrides,
            ],
        )

    return make


def flat(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class OneProcess:
    """What a module asks of Lightning's trainer."""

    world_size, global_rank, strategy = 1, 0, None


def prepared(config: DistillConfig):
    module = build_distill_module(config)
    module.__dict__["_trainer"] = OneProcess()
    with torch.no_grad():  # away from the teacher, so that no score gap is zero
        for parameter in [*module.fake.parameters(), *module.student.parameters()]:
            generator = torch.Generator().manual_seed(parameter.numel())
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        if module.uses_discriminator:
            torch.nn.init.normal_(module.head.branches["mid"][-1].weight)
    if module.bank is not None:
        module.bank.make(quiet=True)
        module.bank.load()
    return module


def found_gradient(module, share: Share) -> torch.Tensor:
    module.student.zero_grad()
    (loss,) = module._student_losses([share], module.method.at(0), module.random("student"))
    loss.backward()
    return torch.cat([p.grad.flatten() for p in module.student.parameters() if p.grad is not None])
