"""The benchmark's command line, and the objective's overhead at the size that is promised."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"


@pytest.fixture
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_figures_are_written(benchmark, tmp_path):
    out = tmp_path / "core.json"
    options = ["--size", "8", "--batch", "1", "--repeats", "1", "--device", "cpu", "--out", str(out)]
    figures = benchmark.main(["core", *options])
    assert json.loads(out.read_text()) == figures
    assert figures["latents"] == [1, 4, 8, 8] and figures["objective_ms"] > 0 and figures["machine"]["cores"] >= 1


def test_unknown_benchmark_lists_choices(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["speed"])
    assert "invalid choice: 'speed'" in capsys.readouterr().err


@pytest.mark.slow
def test_overhead_is_at_most_three_percent(benchmark):
    assert benchmark.main(["core", "--repeats", "5"])["overhead_percent"] <= 3.0
