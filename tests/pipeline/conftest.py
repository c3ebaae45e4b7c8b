"""A pipeline small enough for a test: tiny teacher, few steps, small pictures."""

from __future__ import annotations

import pytest

# Keys that a stage does not have would be refused, so these are common to all three.
SMALL = (
    "trainer.max_steps=3", "trainer.val_check_interval=3", "checkpoint.every_n_train_steps=3", "data.width=8",
    "data.height=8", "data.batch_size=1", "data.eval_width=16", "data.eval_height=16", "data.n_val_views=1",
    "data.n_test_views=2", "system.guidance.bank.size=1", "system.guidance.bank.steps=1",
    "system.geometry.isosurface_resolution=16",
)  # fmt: skip


@pytest.fixture
def small(tiny_teacher, tmp_path, monkeypatch) -> tuple[str, ...]:
    """Overrides of every stage; turntables are small and short."""
    from uni_instruct_3d.pipeline import pictures

    monkeypatch.setattr(pictures, "TURNTABLES", dict.fromkeys(pictures.TURNTABLES, (8, 32)))
    teacher = f"system.prompt_processor.pretrained_model_name_or_path={tiny_teacher}"
    return (teacher, f"system.guidance.bank_dir={tmp_path}/bank", *SMALL)


@pytest.fixture
def arguments(small, tmp_path) -> list[str]:
    """Command line of a small run, without the prompt."""
    return ["--out", str(tmp_path / "out"), "--gpu", "cpu", "--config-set", "shapes", *small]
