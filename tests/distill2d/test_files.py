"""Files appear whole or not at all."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from uni_instruct_guidance.core.files import atomically


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "deep" / "weights.pt"
    atomically(path, lambda partial: partial.write_text("old"))

    def fail(partial):
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomically(path, fail)
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_others_may_read_what_the_mask_lets_them(tmp_path):
    """Whoever writes: safetensors by itself makes files that only their owner can read."""
    before = os.umask(0o027)
    try:
        atomically(tmp_path / "weights.safetensors", lambda partial: save_file({"x": torch.zeros(1)}, partial))
        assert (tmp_path / "weights.safetensors").stat().st_mode & 0o777 == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
