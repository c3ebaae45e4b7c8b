"""The command with a tiny teacher, small enough for a test."""

from __future__ import annotations

import pytest

# Keys that every stage has.
SMALL = [
    "trainer.max_steps=2", "trainer.val_check_interval=2", "checkpoint.every_n_train_steps=1", "data.width=8",
    "data.height=8", "data.batch_size=1", "data.eval_width=16", "data.eval_height=16", "data.n_val_views=1",
    "data.n_test_views=1", "system.guidance.bank.size=1", "system.guidance.bank.steps=1",
    "system.geometry.isosurface_resolution=16",
]  # fmt: skip


@pytest.fixture
def arguments(tiny_teacher, tmp_path):
    """Two methods, one prompt, one seed, in a folder of the test's own; without --methods."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red mug\n")
    teacher = f"system.prompt_processor.pretrained_model_name_or_path={tiny_teacher}"
    options = ["--prompts", str(prompts), "--seeds", "0", "--out", str(tmp_path / "out"), "--cpu", "--jobs", "1"]
    return [*options, teacher, f"system.guidance.bank_dir={tmp_path}/bank", *SMALL]


@pytest.fixture
def in_this_process(monkeypatch):
    """The engine `local` without workers of its own, which import everything anew."""
    from uni_instruct_3d.comparison import engines

    def here(work, items, jobs):
        for item in items:
            yield item, *engines._attempt(work, item)

    return lambda: monkeypatch.setitem(engines.ENGINES, "local", here)
