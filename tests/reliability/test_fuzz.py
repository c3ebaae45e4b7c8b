"""Hostile inputs to every entry point, in process: no traceback, a status that is not 0, one sentence.

A case that fails prints its words; `draw(seed, kind, …)` of hostile.py makes it again.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import ablation
import benchmark
import compare
import convert_edm
import evaluate_2d
import hostile
import lab
import look_at_world
import pytest
import report
import score
import teacher_report
import text_table
import train_digit_classifier
import train_teacher
from hostile import KINDS, Case, Entries, draw
from omegaconf.errors import OmegaConfBaseException
from tiny_runs import tiny_data, tiny_network

import launch
import uni_instruct_guidance.guidance
import uni_instruct_guidance.systems  # noqa: F401
from threestudio import runner
from threestudio.utils.misc import load_checkpoint, set_device
from uni_instruct_3d.pipeline import cli as pipeline
from uni_instruct_3d.studio import cli as studio
from uni_instruct_guidance.distill2d import cli
from uni_instruct_guidance.distill2d.data import DataConfig, load_data
from uni_instruct_guidance.distill2d.trainer import (
    DistillConfig,
    EDMConfig,
    build_distill_module,
    build_edm_module,
    check_resume,
)
from uni_instruct_guidance.scoring.frames import load_frames
from uni_instruct_guidance.scoring.meshes import load_mesh

#: What ends as one line wherever it is raised; anything else would be a traceback.
TOLD = (ValueError, OSError, OmegaConfBaseException)
SCRIPTS = {
    "score": score.main, "compare": compare.main, "benchmark": benchmark.command, "benchmark core": benchmark.command,
    "evaluate_2d": evaluate_2d.main, "ablation": ablation.main, "lab": lab.main, "look_at_world": look_at_world.main,
    "train_digit_classifier": train_digit_classifier.main, "report": report.main, "convert_edm": convert_edm.main,
    "teacher_report": teacher_report.main, "train_teacher": train_teacher.main, "text_table": text_table.main,
}  # fmt: skip


class WouldWorkError(Exception):
    """The checks let a case pass that was made to be refused."""


@dataclass
class Outcome:
    """status: 0, another number, or None for a traceback. line: what the user reads. detail: of a traceback."""

    status: int | None
    line: str
    detail: str = ""


@pytest.fixture
def entries(monkeypatch) -> Entries:
    """Every entry point; behind the checks of the two trainers nothing is trained."""
    monkeypatch.setattr(runner, "_carry_out", lambda action, cfg, *_: cfg.resume and load_checkpoint(cfg.resume))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")

    def distil(cfg):
        check_resume(cfg, Path(cfg.out))
        build_distill_module(cfg, teacher=tiny_network(classes=10), data=tiny_data(classes=10))
        raise WouldWorkError

    def train_edm(cfg):
        cfg.check()
        check_resume(cfg, Path(cfg.out))
        build_edm_module(cfg)
        raise WouldWorkError

    def or_0(call):
        """Status 0 for what the checks let pass."""

        def entry(words: list[str]) -> int:
            try:
                return call(words)
            except WouldWorkError:
                return 0

        return entry

    def no_run(*_, **__):
        raise WouldWorkError

    readers = {suffix: load_mesh for suffix in (".obj", ".ply", ".glb")}
    readers |= {".gif": lambda path: load_frames(path, (1, 1, 1))}
    readers |= {".zip": lambda path: [load_data(DataConfig("zip", str(path))).images([0, 1])]}
    monkeypatch.setattr(pipeline.Run, "create", no_run)
    monkeypatch.setattr(studio, "serve", no_run)
    monkeypatch.setattr(text_table, "run_all", no_run)
    monkeypatch.setattr(text_table, "assess_teacher", no_run)
    scripts = {**SCRIPTS, "text_to_3d": pipeline.main, "studio": studio.main}
    yield Entries(
        launch.main,
        or_0(lambda words: cli.main(DistillConfig, distil, "", words)),
        or_0(lambda words: cli.main(EDMConfig, train_edm, "", words)),
        {name: or_0(call) for name, call in scripts.items()},
        report.main,
        readers,
    )
    set_device(None)


def outcome(case: Case, capsys) -> Outcome:
    """What a user would see of a case."""
    capsys.readouterr()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status = case.call() or 0
    except SystemExit as stop:  # argparse
        status = stop.code if isinstance(stop.code, int) else 1
    except TOLD as error:  # a reader, whose caller tells it
        return Outcome(2, f"error: {error}")
    except Exception:
        return Outcome(None, "", traceback.format_exc(limit=-6))
    said = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()
    return Outcome(status, said[-1] if said else "")


def fault(case: Case, found: Outcome) -> str | None:
    """What is wrong with an outcome."""
    if found.status is None:
        return f"{case.words}\n    traceback: {found.detail}"
    if found.status == 0:
        return f"{case.words}\n    status 0" if case.must_fail else None
    if not found.line.strip() or found.line.startswith((" ", "Traceback")) or ": " not in found.line:
        return f"{case.words}\n    status {found.status}, but it says {found.line!r}"
    return None


def faults(seeds, entries: Entries, tmp_path: Path, capsys, kinds=KINDS) -> list[str]:
    """All that is wrong with the cases of these seeds, kinds in turn."""
    found, statuses = [], Counter()
    for seed in seeds:
        kind = kinds[seed % len(kinds)]
        place = tmp_path / str(seed)
        place.mkdir()
        (place / "prompts.txt").write_text("a red mug\n")
        case = draw(seed, kind, entries, place)
        result = outcome(case, capsys)
        statuses[kind.__name__, result.status] += 1
        problem = fault(case, result)
        found += [f"seed {seed}, {kind.__name__}: {problem}"] * bool(problem)
    # the test would prove nothing if the cases were not refused
    assert sum(count for (_, status), count in statuses.items() if status) > sum(statuses.values()) / 3, statuses
    return found


def test_no_hostile_input_ends_in_a_traceback(entries, tmp_path, capsys):
    assert not (found := faults(range(80), entries, tmp_path, capsys)), "\n\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(8))
def test_no_hostile_input_ends_in_a_traceback_at_length(block, entries, tmp_path, capsys):
    """800 cases."""
    seeds = range(1000 + 100 * block, 1100 + 100 * block)
    assert not (found := faults(seeds, entries, tmp_path, capsys)), "\n\n".join(found)


def test_the_judge_of_outcomes_finds_faults(capsys):
    """A fuzz test that cannot fail is none."""

    def broken() -> int:
        return {}["gone"]

    for call, must_fail, wrong in (
        (broken, True, True),
        (lambda: 0, True, True),
        (lambda: 0, False, False),
        (lambda: 2, True, True),  # without a word
    ):
        case = Case("words", call, must_fail)
        assert bool(fault(case, outcome(case, capsys))) == wrong
    assert fault(Case("words", lambda: 2), Outcome(2, "error: key=3 must be less")) is None
    assert hostile.damaged(b"abc" * 50, __import__("random").Random(3)) != b"abc" * 50
