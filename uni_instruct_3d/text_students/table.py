"""Methods x seeds of one-step text-to-image students at the same budget: planned, carried out, written as a table."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from uni_instruct_guidance.core.errors import choose
from uni_instruct_guidance.core.files import atomically
from uni_instruct_guidance.distill2d.ablation import finished
from uni_instruct_guidance.distill2d.config import DistillConfig
from uni_instruct_guidance.distill2d.trainer import distill
from uni_instruct_guidance.teachers.fingerprint import of_files

from .. import ROOT, world_data  # noqa: F401  the row `shapes` of the data sets, in worker processes too
from .assess import Assessment, ask_world, assess, guided_pipeline, one_step_pipeline

#: Guidance of the teacher where a method's own row leaves it plain: without it no method draws what was asked.
SCALE = 6.0
_PLAIN = {"weighting": "x0_normalised", "guidance_teacher": SCALE}


def _row(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, **options}


#: Row of the table -> `method:` of the configuration. A new row is a new line.
ROWS: dict[str, dict[str, Any]] = {
    "diff_instruct": _row("diff_instruct", **_PLAIN),
    "swiftbrush": _row("swiftbrush"),
    "dmd": _row("dmd", guidance_teacher=SCALE),
    "dmd2": _row("dmd2", guidance_teacher=SCALE),
    "sim": _row("sim", guidance_teacher=SCALE),
    "sid": _row("sid", guidance_teacher=SCALE),
    "sida": _row("sida", guidance_teacher=SCALE),
    "sid_lsg": _row("sid_lsg"),
    "f_distill": _row("f_distill", **_PLAIN),
    "uni_instruct rkl": _row("uni_instruct", divergence="rkl", **_PLAIN),
    "uni_instruct fkl": _row("uni_instruct", divergence="fkl", **_PLAIN),
    "uni_instruct jkl": _row("uni_instruct", divergence="jkl", **_PLAIN),
    "di_pp": _row("di_pp", **_PLAIN),
    "di_star": _row("di_star", guidance_teacher=SCALE),
    # reward against distance to the teacher, as the reward's weight grows
    "di_pp x 10": _row("di_pp", **_PLAIN, auxiliary={"reward": 10.0}),
    "di_pp x 100": _row("di_pp", **_PLAIN, auxiliary={"reward": 100.0}),
    "di_star x 10": _row("di_star", guidance_teacher=SCALE, auxiliary={"reward": 10.0}),
    "di_star x 100": _row("di_star", guidance_teacher=SCALE, auxiliary={"reward": 100.0}),
}
FIGURES = ("class", "color", "pattern", "view", "fd", "clip", "diversity", "seconds")


@dataclass(frozen=True)
class TextRun:
    """One row with one seed, ready to be carried out in any process."""

    row: str
    seed: int
    config: DistillConfig
    settings: dict[str, Any]
    assessment: Assessment

    @property
    def key(self) -> tuple[str, int]:
        """Row and seed."""
        return self.row, self.seed

    start_key = None

    @property
    def folder(self) -> Path:
        return Path(self.config.out)

    def result(self) -> dict[str, Any] | None:
        """What is stored, if this very run is finished."""
        return finished(self.folder, self.settings)


def plan(
    base: DistillConfig, rows: Sequence[str], seeds: Sequence[int], out: Path, assessment: Assessment
) -> list[TextRun]:
    """Every row with every seed, seed by seed, under one configuration."""
    runs = []
    for seed in seeds:
        for row in rows:
            method = choose("rows", row, ROWS)
            text = base.text
            if method["name"].startswith("di_") and not text.reward:
                text = dataclasses.replace(text, reward="clip")
            folder = out / row.replace(" ", "-") / f"seed{seed}"
            bank = dataclasses.replace(base.bank, path=base.bank.path or str(out / "bank"))  # one for all rows
            config = dataclasses.replace(base, method=method, seed=seed, out=str(folder), text=text, bank=bank)
            runs.append(TextRun(row, seed, config, settings_of(config, assessment), assessment))
    return runs


def settings_of(config: DistillConfig, assessment: Assessment) -> dict[str, Any]:
    """Everything a run's figures depend on; the teacher by its content."""
    free = ("out", "teacher", "resume", "trainer", "save_every", "sample_every", "log_every", "grid", "compile")
    plain = {name: value for name, value in dataclasses.asdict(config).items() if name not in free}
    plain["bank"].pop("path")
    found = {"config": plain, "teacher": _content(Path(config.teacher)), "assessment": dataclasses.asdict(assessment)}
    return json.loads(json.dumps(found))


def carry_out(run: TextRun) -> dict[str, Any]:
    """Train, assess and store one run on one thread; one that was cut short goes on."""
    torch.set_num_threads(1)
    distill(dataclasses.replace(run.config, resume=_same(run)), quiet=True)
    figures = assess(one_step_pipeline(run.folder / "student"), ask_world(run.assessment), run.assessment)
    result = {"row": run.row, "seed": run.seed, "steps": run.config.steps, **figures, "settings": run.settings}
    _write(run.folder / "result.json", result)
    return result


def assess_teacher(config: DistillConfig, out: Path, assessment: Assessment) -> dict[str, Any]:
    """The teacher's figures with 20 guided steps; stored like a run."""
    settings = {"teacher": _content(Path(config.teacher)), "assessment": dataclasses.asdict(assessment)}
    stored = finished(out / "teacher", settings)
    if stored is None:
        figures = assess(guided_pipeline(Path(config.teacher)), ask_world(assessment), assessment)
        stored = {"row": "teacher, 20 steps", **figures, "settings": settings}
        _write(out / "teacher" / "result.json", stored)
    return stored


def markdown(results: Sequence[dict[str, Any]], teacher: dict[str, Any]) -> str:
    """Mean ± standard error over seeds, in the table's order, and how many seeds beat the teacher's bounds."""
    lines = ["| method | seeds | class | colour | pattern | view | FD | CLIP | diversity | s/picture | within bounds |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    cells = " | ".join(f"{teacher[name]:.3g}" for name in FIGURES)
    lines.append(f"| teacher, 20 steps, CFG 6 | – | {cells} | – |")
    for row in ROWS:
        found = [result for result in results if result["row"] == row]
        if found:
            cells = " | ".join(_mean(found, name) for name in FIGURES)
            within = sum(within_bounds(result, teacher) for result in found)
            lines.append(f"| {row} | {len(found)} | {cells} | {within} of {len(found)} |")
    return "\n".join(lines) + "\n"


def within_bounds(result: dict[str, Any], teacher: dict[str, Any]) -> bool:
    """Class, colour and pattern at most two points below the teacher, Fréchet distance at most the teacher's."""
    near = all(result[head] >= teacher[head] - 2 for head in ("class", "color", "pattern"))
    return near and result["fd"] <= teacher["fd"]


def _mean(results: Sequence[dict[str, Any]], name: str) -> str:
    values = [result[name] for result in results]
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return f"{statistics.mean(values):.3g}" + ("" if error is None else f" ± {error:.2g}")


def _content(folder: Path) -> str:
    folder = folder if folder.is_dir() else ROOT / folder
    return of_files([path for path in sorted(folder.glob("*/*")) if path.is_file()], folder)


def _same(run: TextRun) -> bool:
    """Whether the folder holds this very run; otherwise it begins anew and says so beside its files."""
    path = run.folder / "settings.json"
    try:
        same = json.loads(path.read_text()) == run.settings
    except (OSError, ValueError):
        same = False
    if not same:
        _write(path, run.settings)
    return same


def _write(path: Path, content: dict[str, Any]) -> None:
    atomically(path, lambda partial: partial.write_text(json.dumps(content, indent=1) + "\n"))
