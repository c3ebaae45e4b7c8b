"""Benchmarks of training steps: every figure is there, what is measured is kept, exponents are arithmetic."""

from __future__ import annotations

import json
import math
import sys

import benchmark
import pytest

from uni_instruct_3d.benchmarks import _rows, gpu, nerf, scaling, sd21

SMALL = ["data.width=8", "data.height=8", "data.batch_size=1", "system.renderer.num_samples_per_ray=8"]


def test_sd21_measures_a_step_and_goes_on(tmp_path, monkeypatch):
    out = tmp_path / "sd21.json"
    quick = ["sd21", "--quick", "--size", "64", "--dtype", "fp32", "--device", "cpu", "--out", str(out)]
    benchmark.main([*quick, "--methods", "rkl full, checkpointing"])
    found = json.loads(out.read_text())
    row = found["rows"]["rkl full, checkpointing"]
    assert row["finite"] and row["picture"] == 64 and 0.1 < row["peak_gib"] < 8
    assert row["seconds_of_network_passes"] < row["seconds_per_step"] and row["step_over_passes"] > 1
    assert {"teacher, back", "fake score, back", "encoder, back", "discriminator head"} <= set(row["percent"])
    assert found["rows"]["text encoder"]["parameters_million"] == 2
    asked = []
    monkeypatch.setattr(sd21, "in_process", lambda call, *arguments: asked.append(arguments[0]) or {"seconds": 1})
    rows = benchmark.main([*quick, "--methods", "sds", "rkl full, checkpointing"])["rows"]
    assert asked == ["sds"] and rows["rkl full, checkpointing"] == row and rows["sds"] == {"seconds": 1}
    with pytest.raises(ValueError, match="holds figures of other settings"):
        benchmark.main([*quick, "--batch", "2"])


def test_sd21_has_the_published_shapes():
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        sizes = [sum(p.numel() for p in network.parameters()) for network in
                 (UNet2DConditionModel(**sd21.UNET), AutoencoderKL(**sd21.VAE))]  # fmt: skip
    assert sizes == [865_910_724, 83_653_863]


def test_scaling_measures_axes_of_both_trainers(tmp_path):
    axes = ["batch", "2d processes"]
    picture = tmp_path / "scaling.svg"
    places = ["--out", str(tmp_path / "s.json"), "--plot", str(picture)]
    figures = benchmark.main(["scaling", "--quick", "--axes", *axes, "--steps", "1", *places])
    assert set(figures["rows"]) == {"batch 1", "batch 2", "2d processes 1", "2d processes 2"}
    assert not [row["error"] for row in figures["rows"].values() if "error" in row]
    shares = figures["rows"]["batch 2"]["percent"]
    assert sum(shares.values()) == pytest.approx(100, abs=0.5) and {"renderer", "teacher", "fake score"} <= set(shares)
    assert figures["summary"]["batch"]["time_exponent"] < 1.5 and "seconds per step" in picture.read_text()


def test_exponents_and_what_breaks_first():
    """Seconds ∝ x², memory 1 + x/100 GiB: at 64 cells 4 s, so 64 s at 256; 8 GiB more than at 16 only at 816."""
    rows = {str(x): {"seconds_per_step": x**2 / 1024, "peak_gib": 1 + x / 100, "percent": {"renderer": 70.0}}
            for x in (16, 32, 64)}  # fmt: skip
    found = scaling.summarise({"unit": "cells", **rows}, memory=9.16, patience=64.0)
    assert found["time_exponent"] == 2.0 and found["breaks"] == "time at 256"
    assert found["memory_exponent"] == pytest.approx(math.log(48 / 16) / math.log(2), abs=0.01)
    assert found["largest_share"] == "renderer 70 %"
    assert scaling.summarise({"unit": "cells", **rows}, memory=2.0, patience=1e9)["breaks"].startswith("memory at")
    failed = {**rows, "128": {"error": "out of memory"}}
    assert scaling.summarise({"unit": "cells", **failed}, 9.0, 64.0)["failed"] == {"128": "out of memory"}


def _die() -> dict:
    import os

    os._exit(3)


def _wait() -> dict:
    import time

    time.sleep(30)


def test_a_row_that_dies_or_hangs_is_an_error_and_measured_again(tmp_path):
    assert "without a word" in _rows.in_process(_die)["error"]
    assert "stopped after" in _rows.in_process(_wait, most_seconds=0.2)["error"]
    out = tmp_path / "rows.json"
    _rows.Rows(out, {"a": 1}).get("x", lambda: {"error": "no"})
    assert _rows.Rows(out, {"a": 1}).get("x", lambda: {"seconds": 2}) == {"seconds": 2}
    assert _rows.Rows(out, {"a": 1}).get("x", lambda: {"seconds": 3}) == {"seconds": 2}


def test_ratios_of_one_run(tiny_teacher, tmp_path):
    given = [f"system.prompt_processor.pretrained_model_name_or_path={tiny_teacher}", *SMALL,
             f"system.guidance.bank_dir={tmp_path}", "system.guidance.bank={size: 1, steps: 1}"]  # fmt: skip
    figures = benchmark.main(["nerf", "--rounds", "1", "--settle", "1", "--methods", "rkl none", "--", *given])
    assert set(figures["ratio_to_vsd_separate"]) == {"vsd separate", "rkl none"}
    assert set(figures["targets_met"]) == {"rkl none <= 0.95 x vsd separate"}
    parts = figures["percent_of_step"]["rkl none"]
    assert sum(parts.values()) == pytest.approx(100, abs=0.6)
    assert {"render", "render, back", "encoder, back", "teacher", "fake score, back", "optimiser"} <= set(parts)
    ratios = {"rkl none": 0.9, "fkl none": 0.97, "jkl none": 0.94, "rkl full": 1.3}
    assert list(nerf._targets(ratios).values()) == [True, False, True, False]


def test_the_gpu_parts(tmp_path, monkeypatch):
    for number, (_, commands) in gpu.PARTS.items():
        assert sum(command.seconds for command in commands) <= gpu.PART_SECONDS
        dry = benchmark.main(["gpu", "--part", str(number), "--dry", "--folder", str(tmp_path)])
        assert set(dry["commands"]) == {command.name for command in commands}
    with pytest.raises(ValueError, match="--quick runs the same"):
        monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
        benchmark.main(["gpu", "--part", "2"])
    code = "import json, sys; json.dump({'x': 1}, open(sys.argv[1], 'w')); print('said')"
    rows = (
        gpu.Command("good", "", (), ("-c", code, "{out}"), 60),
        gpu.Command("bad", "", (), ("-c", "raise SystemExit(3)"), 60),
        gpu.Command("slow", "", (), ("-c", "import time; time.sleep(60)"), 1),
    )
    monkeypatch.setitem(gpu.PARTS, 2, ("a part", rows))
    first = benchmark.main(["gpu", "--part", "2", "--quick", "--folder", str(tmp_path)])["commands"]
    assert (first["good"]["status"], first["good"]["figures"]) == (0, {"x": 1})
    assert first["bad"]["status"] == 3 and first["slow"]["status"] == "stopped after 1 s"
    monkeypatch.setattr(sys, "executable", "/bin/false")
    again = benchmark.main(["gpu", "--part", "2", "--quick", "--folder", str(tmp_path)])["commands"]
    assert again["good"] == first["good"] and again["bad"]["status"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("part", sorted(gpu.PARTS))
def test_every_command_of_a_part_runs_quickly_without_a_gpu(part, tmp_path):
    rows = benchmark.main(["gpu", "--part", str(part), "--quick", "--folder", str(tmp_path)])["commands"]
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(rows, 0)
