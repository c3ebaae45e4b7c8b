"""Table 4 of Uni-Instruct (arXiv 2505.20755) on any data: divergence x GAN x start, several seeds, resumable.

A cell is one row of that table; a run is a cell with a seed. All runs share one configuration but for what their cell
says, and a finished run is known by its settings: it is not run again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..core.errors import choose
from ..core.files import atomically
from ..teachers.edm.checkpoint import load_edm
from ..teachers.sampling import HeunSampler, one_step
from .callbacks import save_grid
from .config import DistillConfig
from .data import load_data
from .evaluation import Reference, assess_generator, judge_for, load_judge
from .trainer import distill


@dataclass(frozen=True)
class Cell:
    """One row of Table 4.

    Attributes:
        name: for tables and folders.
        divergence: None trains the student by the adversarial term alone.
        gan: whether the adversarial term is added, with the configuration's weight.
        start: cell whose finished student and fake score this one starts from; None: the teacher.
        paper: FID that the paper prints for CIFAR-10, unconditional.
    """

    name: str
    divergence: str | None
    gan: bool
    start: str | None
    paper: float


_ROWS = (
    Cell("gan only", None, True, None, 8.21),
    Cell("chi2 + gan", "chi2", True, None, 4.37),
    Cell("js + gan", "js", True, None, 5.23),
    Cell("jkl + gan", "jkl", True, None, 1.46),
    Cell("rkl", "rkl", False, None, 1.92),
    Cell("fkl", "fkl", False, None, 1.88),
    Cell("rkl + gan", "rkl", True, None, 1.52),
    Cell("fkl + gan", "fkl", True, None, 1.52),
    Cell("rkl + gan, from rkl", "rkl", True, "rkl + gan", 1.50),
    Cell("fkl + gan, from rkl", "fkl", True, "rkl + gan", 1.48),
    Cell("jkl + gan, from rkl", "jkl", True, "rkl + gan", 1.50),
)
CELLS: dict[str, Cell] = {cell.name: cell for cell in _ROWS}


def with_starts(names: Sequence[str]) -> list[Cell]:
    """The named cells and those they start from, in the table's order."""
    wanted = [choose("cells", name, CELLS) for name in names]
    needed = {cell.name for cell in wanted} | {cell.start for cell in wanted if cell.start}
    return [cell for cell in CELLS.values() if cell.name in needed]


@dataclass(frozen=True)
class Assessment:
    """How every student, and the teacher, is compared with the data.

    Attributes:
        samples: generated images. batch: drawn at once. seed: of their noise, the same for all.
        weights: the judge's file.
    """

    samples: int = 10_000
    batch: int = 250
    seed: int = 1_000
    weights: str | None = None


def cell_config(base: DistillConfig, cell: Cell, seed: int, out: Path) -> DistillConfig:
    """The shared configuration with the cell's divergence, adversarial term, start and the run's seed."""
    method = dict(base.method) if isinstance(base.method, dict) else {"name": base.method}
    if cell.divergence is not None:
        method["divergence"] = cell.divergence
    if not cell.gan:
        method["auxiliary"] = {"gan": 0.0}
    loss_scale = dataclasses.replace(base.loss_scale, student=base.loss_scale.student if cell.divergence else 0.0)
    return dataclasses.replace(
        base,
        method=method,
        loss_scale=loss_scale,
        seed=seed,
        start=str(run_folder(out, CELLS[cell.start], seed) / "last.ckpt") if cell.start else None,
        out=str(run_folder(out, cell, seed)),
        trainer={"accelerator": "cpu", **base.trainer},
    )


def run_folder(out: Path, cell: Cell, seed: int) -> Path:
    """Where a run lives."""
    return out / cell.name.replace(" + ", "+").replace(", ", "-").replace(" ", "-") / f"seed{seed}"


# What may change without changing a result.
_FREE = ("out", "start", "teacher", "resume", "trainer", "save_every", "sample_every", "log_every", "grid", "compile")


def settings_of(config: DistillConfig, start: dict[str, Any] | None, assessment: Assessment) -> dict[str, Any]:
    """Everything a run's figures depend on; weights by their content, the start by its own settings."""
    plain = {name: value for name, value in dataclasses.asdict(config).items() if name not in _FREE}
    judged = {**dataclasses.asdict(assessment), "weights": file_key(assessment.weights)}
    settings = {"config": plain, "teacher": file_key(config.teacher), "start": start, "assessment": judged}
    return json.loads(json.dumps(settings))


def file_key(path: str | None) -> str | None:
    """SHA-256 of a file's content, shortened."""
    return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def finished(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The stored result of a run with these settings, if there is one."""
    try:
        stored = json.loads((folder / "result.json").read_text())
        return stored if stored["settings"] == settings else None
    except (OSError, ValueError, KeyError):
        return None


@dataclass(frozen=True)
class Run:
    """One cell with one seed, ready to be carried out in any process."""

    cell: Cell
    seed: int
    config: DistillConfig
    settings: dict[str, Any]
    assessment: Assessment

    @property
    def key(self) -> tuple[str, int]:
        """Cell and seed."""
        return self.cell.name, self.seed

    @property
    def start_key(self) -> tuple[str, int] | None:
        """The run whose student this one starts from."""
        return (self.cell.start, self.seed) if self.cell.start else None

    @property
    def folder(self) -> Path:
        return Path(self.config.out)

    def result(self) -> dict[str, Any] | None:
        """What is stored, if this very run is finished."""
        return finished(self.folder, self.settings)


def plan(
    base: DistillConfig, cells: Sequence[Cell], seeds: Sequence[int], out: Path, assessment: Assessment
) -> list[Run]:
    """Every cell with every seed, starts before what starts from them, seed by seed."""
    runs = []
    for seed in seeds:
        settings: dict[str, dict] = {}
        for cell in sorted(cells, key=lambda cell: cell.start is not None):
            config = cell_config(base, cell, seed, out)
            settings[cell.name] = settings_of(config, settings.get(cell.start), assessment)
            runs.append(Run(cell, seed, config, settings[cell.name], assessment))
    return runs


def carry_out(run: Run) -> dict[str, Any]:
    """Train, assess and store one run, on one thread; a run that was cut short goes on, one with other settings not."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    resume = _same_settings(run.folder / "settings.json", run.settings)
    _write_json(run.folder, "settings.json", run.settings)
    trained = distill(dataclasses.replace(run.config, resume=resume), quiet=True)
    draw = partial(one_step, trained.network, init_sigma=run.config.init_sigma)
    quality, images = assess_generator(
        draw, trained.network, reference(run.config, run.assessment), count=run.assessment.samples,
        batch=run.assessment.batch, seed=run.assessment.seed,
    )  # fmt: skip
    save_grid(images, run.folder / "grid.png")
    result = {
        "cell": run.cell.name, "seed": run.seed, "steps": run.config.steps,
        "seconds": round(time.perf_counter() - start, 1), "skipped": trained.skipped, **quality.row(),
        "settings": run.settings,
    }  # fmt: skip
    _write_json(run.folder, "result.json", result)
    return result


def reference(config: DistillConfig, assessment: Assessment) -> Reference:
    """The data as the judge sees them."""
    data = load_data(config.data)
    return Reference(data, load_judge(judge_for(data.name), assessment.weights))


def assess_teacher(
    config: DistillConfig, out: Path, assessment: Assessment, progress: Callable[[int], object] | None = None
) -> dict[str, Any]:
    """The teacher's figures at 35 evaluations and the floor of the data's halves; stored like a run."""
    settings = {"teacher": file_key(config.teacher), "assessment": settings_of(config, None, assessment)["assessment"]}
    stored = finished(out / "teacher", settings)
    if stored is not None:
        return stored
    teacher = load_edm(config.teacher, config.preset).eval().requires_grad_(False)
    real = reference(config, assessment)
    quality, images = assess_generator(
        partial(HeunSampler(), teacher), teacher, real, count=assessment.samples, batch=assessment.batch,
        seed=assessment.seed, progress=progress,
    )  # fmt: skip
    save_grid(images, out / "teacher" / "grid.png")
    result = {**quality.row(), "real": real.count, "floor": real.floor, "settings": settings}
    _write_json(out / "teacher", "result.json", result)
    return result


def run_all(
    runs: Sequence[Run], jobs: int, progress, work: Callable[[Run], dict[str, Any]] | None = None
) -> tuple[list[dict[str, Any]], dict[tuple[str, int], str]]:
    """(results of the finished runs in the order given, {(cell, seed): why it failed}).

    A run waits for the one it starts from; a failure does not stop the others. `progress` is a tqdm bar over all
    training steps. `work`: what a process does with a run; `carry_out` by default.
    """
    results = {run.key: result for run in runs if (result := run.result()) is not None}
    failures: dict[tuple[str, int], str] = {}
    waiting = [run for run in runs if run.key not in results]
    progress.n = progress.initial = sum(run.config.steps for run in runs if run.key in results)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        pending: dict = {}
        while waiting or pending:
            for run in [run for run in waiting if run.start_key in failures]:
                waiting.remove(run)
                failures[run.key] = f"its start failed: {failures[run.start_key]}"
            ready = [run for run in waiting if run.start_key is None or run.start_key in results]
            for run in ready[: jobs - len(pending)]:
                waiting.remove(run)
                pending[pool.submit(work or carry_out, run)] = run
            done, _ = wait(pending, timeout=2.0, return_when=FIRST_COMPLETED)
            for future in done:
                run = pending.pop(future)
                try:
                    results[run.key] = future.result()
                except Exception as error:  # whatever went wrong in one run, hours of others are not thrown away
                    failures[run.key] = " ".join(f"{type(error).__name__}: {error}".split())
            finished_steps = sum(run.config.steps for run in runs if run.key in results)
            progress.n = finished_steps + sum(steps_so_far(run.folder) for run in pending.values())
            progress.set_postfix_str(", ".join(f"{cell} #{seed}" for cell, seed in (r.key for r in pending.values())))
    return [results[run.key] for run in runs if run.key in results], failures


def steps_so_far(folder: Path) -> int:
    """Training steps of a run in flight, from its log."""
    try:
        return int(json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["step"])
    except (OSError, ValueError, KeyError, IndexError):
        return 0


def _same_settings(path: Path, settings: dict[str, Any]) -> bool:
    try:
        return json.loads(path.read_text()) == settings
    except (OSError, ValueError):
        return False


def _write_json(folder: Path, name: str, content: dict[str, Any]) -> None:
    atomically(folder / name, lambda path: path.write_text(json.dumps(content, indent=1) + "\n"))
