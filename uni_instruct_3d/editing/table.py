"""Every method on the same pictures: edits of renders of the world, restorations of renders and digits, as one table.

Work is done and stored in pieces of `PIECE` pictures, so that what was cut short goes on.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uni_instruct_guidance.core.files import atomically
from uni_instruct_guidance.core.operators import make_operator
from uni_instruct_guidance.editing.delta import EditConfig, Prompts, edit
from uni_instruct_guidance.editing.restore import RestoreConfig, Told, restore
from uni_instruct_guidance.teachers.opening import open_teacher
from uni_instruct_guidance.teachers.stable_diffusion.text import PromptConditions

from .. import ROOT
from .. import shapes_world as world
from ..teacher_factory.judge import built_in_judge
from ..world_metrics.shape import silhouette_iou
from . import BUILTIN
from .edit_cli import GUIDANCE
from .measures import backdrop, quality, silhouette
from .pictures import save_strip

PIECE = 10
#: Seeds of the world's endless data set that no training and no tuning used.
EDIT_SEED, RESTORE_SEED = 90_019, 90_023
DIGITS = "load/teachers/digits/uncond.safetensors"
CPU = torch.device("cpu")

#: Row -> operator, its options and the noise of the measurement.
TASKS: dict[str, tuple[str, dict[str, Any], float]] = {
    "inpaint, 70 % missing": ("inpaint", {"missing": 0.7}, 0.0),
    "super-resolution × 4": ("super-resolution", {"factor": 4}, 0.0),
    "deblur": ("deblur", {}, 0.02),
    "denoise": ("denoise", {}, 0.4),
    "compressive, a quarter": ("compressive", {"share": 0.25}, 0.0),
}
METHODS = ("pseudo_inverse", "dps", "red_diff")


@dataclass(frozen=True)
class Cell:
    """One line of the table: `what` is edit, world or digits; `task` a row of `TASKS` (edits: none)."""

    what: str
    task: str
    method: str
    steps: int

    @property
    def name(self) -> str:
        """Of its files."""
        words = "-".join(part for part in (self.what, self.task, self.method, str(self.steps)) if part)
        return "".join(c if c.isalnum() or c in "-_" else "_" for c in words)


def carry_out(cell: Cell, pictures: int, out: Path) -> list[dict[str, float]]:
    """Figures of each picture; pieces that are stored are read."""
    rows: list[dict[str, float]] = []
    for first in range(0, pictures, PIECE):
        path = out / f"{cell.name}-{first}.json"
        if not path.is_file():
            found = (_edited if cell.what == "edit" else _restored)(cell, first, out)
            text = json.dumps({"cell": asdict(cell), "rows": found}, indent=1)
            atomically(path, lambda partial: partial.write_text(text))  # noqa: B023
        rows += json.loads(path.read_text())["rows"]
    return rows[:pictures]


def markdown(rows: Iterable[tuple[Cell, Sequence[dict[str, float]]]]) -> str:
    """Mean ± standard error over the pictures; a block of lines for each set of columns."""
    lines: list[str] = []
    header: tuple[str, ...] = ()
    for cell, found in rows:
        names = tuple(found[0])
        if names != header:
            header = names
            lines += ["", f"| task | method | pictures | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
        cells = " | ".join(_mean([row[name] for row in found]) for name in names)
        lines.append(f"| {cell.task or 'colour edit'} ({cell.what}) | {cell.method} | {len(found)} | {cells} |")
    return "\n".join(lines[1:]) + "\n"


def _mean(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.3g}"
    if len(set(values)) == 1:
        return mean
    return f"{statistics.mean(values):.3g} ± {statistics.stdev(values) / len(values) ** 0.5:.2g}"


# --- edits ------------------------------------------------------------------------------------------------------------


@cache
def _shapes():
    return open_teacher(BUILTIN, CPU)


@cache
def renders(seed: int, count: int) -> dict[str, Any]:
    """The first `count` colour renders of an endless data set: arrays and captions as `shapes_world.sample_batch`."""
    items = world.sample_batch(seed, 0, int(count * 1.5) + 8, split="all")
    kept = np.flatnonzero(items["kind"] == 0)[:count]
    return {key: [v[i] for i in kept] if isinstance(v, list) else v[kept] for key, v in items.items()}


def _edited(cell: Cell, first: int, out: Path) -> list[dict[str, float]]:
    """Renders whose colour is to become another one, drawn at random among the nine others."""
    items, teacher, rows = renders(EDIT_SEED, first + PIECE), _shapes(), range(first, first + PIECE)
    chosen = [np.random.default_rng([EDIT_SEED, row]) for row in rows]
    others = [[c for c in world.COLORS if c != world.COLORS[items["color_id"][row]]] for row in rows]
    colours = [rng.choice(names) for rng, names in zip(chosen, others)]

    def caption(row: int, colour: str) -> str:
        words = (world.CLASSES[items["class_id"][row]], colour, world.PATTERNS[items["pattern_id"][row]])
        return world.caption(*words, world.VIEWS[items["view_id"][row]])

    source = [caption(row, world.COLORS[items["color_id"][row]]) for row in rows]
    target = [caption(row, colour) for row, colour in zip(rows, colours)]
    texts = PromptConditions(teacher.name, [*source, *target])
    prompts = Prompts(texts.embed(source, CPU), texts.embed(target, CPU), texts.embed([""] * PIECE, CPU))
    before = _tensor(items["image"][first:])
    start = time.process_time()
    done = edit(teacher, before, prompts, EditConfig(cell.method, cell.steps, guidance_scale=GUIDANCE), list(rows))
    seconds = (time.process_time() - start) / PIECE
    save_strip(out / f"{cell.name}-{first}.png", [*before, *done.pictures], least=64)

    after = done.pictures.permute(0, 2, 3, 1)
    verdict = {head: logits.argmax(1).tolist() for head, logits in built_in_judge()(after).items()}
    found = []
    for place, row in enumerate(rows):
        original, shown = items["image"][row] / 255.0, items["foreground"][row] / 255.0
        behind = backdrop(original, shown)
        outlines = [silhouette(picture, behind)[None] for picture in (original, after[place].numpy())]
        found.append({
            "new colour": float(verdict["color"][place] == world.COLORS.index(colours[place])),
            "old class": float(verdict["class"][place] == items["class_id"][row]),
            "old pattern": float(verdict["pattern"][place] == items["pattern_id"][row]),
            "silhouette IoU": silhouette_iou(*outlines),
            "change of what is not the object": float(np.abs(after[place].numpy() - original)[shown == 0].mean()),
            "calls": done.calls,
            "CPU seconds": seconds,
        })  # fmt: skip
    return found


def _tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images[:PIECE]).permute(0, 3, 1, 2).float() / 255


# --- restorations -----------------------------------------------------------------------------------------------------


@cache
def _digits():
    """EDM teacher, the digits that the classifier was not trained on, their classes, the classifier."""
    from uni_instruct_guidance.distill2d.data.digits import load_digits_data
    from uni_instruct_guidance.distill2d.digit_classifier import ClassifierConfig, load_classifier, split

    data = load_digits_data(None)
    _, kept = split(len(data), ClassifierConfig().held_out, ClassifierConfig().seed)
    classifier = load_classifier(ROOT / "load" / "judge" / "digits.safetensors")
    return open_teacher(DIGITS, CPU), data.images(kept.tolist()) / 2 + 0.5, data.labels[kept], classifier


def _problem(what: str, first: int):
    """Teacher, pictures [B, C, H, W] in 0..1, what it is told, their classes, and what reads classes."""
    if what == "world":
        items, teacher = renders(RESTORE_SEED, first + PIECE), _shapes()
        nothing = PromptConditions(teacher.name, [""]).embed([""] * PIECE, CPU)
        labels = torch.from_numpy(items["class_id"][first:])
        return teacher, _tensor(items["image"][first:]), Told(nothing, nothing), labels, _read_world
    teacher, images, labels, classifier = _digits()
    part = slice(first, first + PIECE)
    return teacher, images[part], Told(), labels[part], lambda found: classifier(found * 2 - 1).argmax(1)


def _read_world(found: Tensor) -> Tensor:
    return built_in_judge()(found.permute(0, 2, 3, 1))["class"].argmax(1)


def _restored(cell: Cell, first: int, out: Path) -> list[dict[str, float]]:
    name, options, noise = TASKS[cell.task]
    teacher, truth, told, labels, read = _problem(cell.what, first)
    operator = make_operator(name, tuple(truth.shape[1:]), torch.Generator().manual_seed(1), **options)
    measurement = operator.forward(2 * truth - 1)
    drawn = torch.randn(measurement.shape, generator=torch.Generator().manual_seed(2 + first))
    measurement = measurement + noise * drawn
    config = RestoreConfig(cell.method, cell.steps, sigma_y=noise)
    start = time.process_time()
    done = restore(teacher, measurement, operator, told, config, list(range(first, first + PIECE)))
    seconds = (time.process_time() - start) / PIECE
    with torch.no_grad():
        psnr, ssim = quality(done.pictures, truth)
        gap = (measurement - operator.forward(2 * done.pictures - 1)).flatten(1).square().mean(1).sqrt()
        kept = (read(done.pictures) == labels).float()
    save_strip(out / f"{cell.name}-{first}.png", [*truth, *done.pictures], least=64)
    columns = {"PSNR": psnr, "SSIM": ssim, "residual": gap, "class kept": kept}
    fixed = {"calls": float(done.calls), "differentiated": float(done.backward), "CPU seconds": seconds}
    return [{key: float(value[row]) for key, value in columns.items()} | fixed for row in range(PIECE)]
