"""The benchmark of text-to-image students at Stable Diffusion's size, with small networks of the same make."""

from __future__ import annotations

import benchmark
import pytest


@pytest.mark.parametrize("method", ["swiftbrush", "sid_lsg"])
def test_a_step_of_each_method_is_taken(tmp_path, method):
    arguments = ["sd21_text", "--quick", "--latent", "8", "--methods", method, "--out", str(tmp_path / "rows.json")]
    (row,) = benchmark.main(arguments)["rows"].values()
    assert row["finite"] and row["moved"] and row["peak_gib"] > 0 and row["student_million"] > 0
