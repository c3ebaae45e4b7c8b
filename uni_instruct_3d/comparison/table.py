"""From cells to numbers: means with standard errors, paired differences, cost; as text, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .matrix import Cell, Column
from .rungs import RUNGS

Results = dict[Cell, dict[str, Any]]


@dataclass(frozen=True)
class Metric:
    """name: key in a cell's scores; title, digits: for tables; scale: factor on the stored value; better: +1 where
    more is better, −1 where less is, 0 where neither."""

    name: str
    title: str
    scale: float = 1.0
    digits: int = 1
    better: int = 1


# fmt: off
METRICS = (
    Metric("clip_x100", "3D-CLIP", digits=2),
    Metric("aesthetic", "3D-Aes", digits=2),
    Metric("r_precision", "R-precision %", 100.0),
    Metric("class", "class %", 100.0),
    Metric("color", "colour %", 100.0),
    Metric("pattern", "pattern %", 100.0),
    Metric("view", "view %", 100.0),
    Metric("janus", "Janus %", 100.0, better=-1),
    Metric("iou", "silhouette IoU %", 100.0),
    Metric("half_transparent", "half transparent %", 100.0, better=-1),
    Metric("agreement", "mesh = NeRF (IoU) %", 100.0),
    Metric("components", "parts", better=0),
    Metric("chamfer", "Chamfer ×100", 100.0, digits=2, better=-1),
    Metric("f_score", "F-score %", 100.0),
)
# fmt: on


class Estimate(NamedTuple):
    """Mean, its standard error (not a number with fewer than two values), number of values."""

    mean: float
    error: float
    count: int

    def text(self, digits: int, signed: bool = False) -> str:
        """ "12.3 ± 0.4"."""
        mean = f"{self.mean:+.{digits}f}" if signed else f"{self.mean:.{digits}f}"
        return mean if math.isnan(self.error) else f"{mean} ± {self.error:.{digits}f}"


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and standard deviation / √n (n − 1 in the variance); None without values."""
    count = len(values)
    if not count:
        return None
    mean = sum(values) / count
    if count < 2:
        return Estimate(mean, math.nan, count)
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return Estimate(mean, math.sqrt(variance / count), count)


def value(results: Results, cell: Cell, backbone: str, metric: Metric) -> float | None:
    """One number in the table's units; None where the cell has none."""
    found = results.get(cell, {}).get("scores", {}).get(backbone, {}).get(metric.name)
    return None if found is None else metric.scale * found


def mean_of(results: Results, column: Column, backbone: str, metric: Metric) -> Estimate | None:
    """Over all finished cells of a column."""
    values = [value(results, cell, backbone, metric) for cell in results if cell.column == column]
    return estimate([v for v in values if v is not None])


def paired_difference(
    results: Results, column: Column, baseline: Column, backbone: str, metric: Metric
) -> Estimate | None:
    """Column minus baseline over the (prompt, seed) pairs that both have: what prompts and seeds have in common
    cancels, so the error is that of the difference and not of the two means."""
    differences = []
    for cell in results:
        if cell.column == column:
            here = value(results, cell, backbone, metric)
            there = value(results, Cell(baseline, cell.prompt, cell.seed), backbone, metric)
            if here is not None and there is not None:
                differences.append(here - there)
    return estimate(differences)


def shown_metrics(results: Results, backbone: str) -> list[Metric]:
    """Those that any cell has."""
    present = {name for result in results.values() for name in result["scores"].get(backbone, {})}
    return [metric for metric in METRICS if metric.name in present]


class Table(NamedTuple):
    """Title, names of the columns, rows of ready text."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """As Markdown, with its title in bold."""
        lines = [f"**{self.title}**", "", "| " + " | ".join(self.header) + " |", "|---" * len(self.header) + "|"]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in self.rows])


def score_table(results: Results, columns: list[Column], backbone: str) -> Table:
    """Mean ± standard error of every metric, one row per method."""
    metrics = shown_metrics(results, backbone)
    rows = []
    for column in columns:
        found = [mean_of(results, column, backbone, metric) for metric in metrics]
        count = max((e.count for e in found if e), default=0)
        texts = ["–" if e is None else e.text(metric.digits) for e, metric in zip(found, metrics)]
        rows.append([column.title, str(count), *texts])
    return Table(f"{BACKBONE_TITLES[backbone]}: mean ± standard error", ["method", "n", *_titles(metrics)], rows)


def difference_table(results: Results, columns: list[Column], baseline: Column, backbone: str) -> Table:
    """Paired differences against the baseline, ± their standard error."""
    metrics = shown_metrics(results, backbone)
    rows = []
    for column in columns:
        if column != baseline:
            found = [paired_difference(results, column, baseline, backbone, metric) for metric in metrics]
            count = max((e.count for e in found if e), default=0)
            texts = ["–" if e is None else e.text(m.digits, signed=True) for e, m in zip(found, metrics)]
            rows.append([column.title, str(count), *texts])
    title = f"{BACKBONE_TITLES[backbone]}: paired difference to {baseline.title}"
    return Table(title, ["method", "pairs", *_titles(metrics)], rows)


BACKBONE_TITLES = {name: rung.title for name, rung in RUNGS.items()}
ARROWS = {1: " ↑", -1: " ↓", 0: ""}


def _titles(metrics: list[Metric]) -> list[str]:
    return [metric.title + ARROWS[metric.better] for metric in metrics]


#: Counter of stages.Cost -> heading.
COSTS = {
    "steps": "steps", "seconds": "seconds", "cpu_seconds": "CPU seconds", "teacher_images": "teacher U-Net",
    "fake_images": "fake score U-Net", "vae_images": "VAE encoder",
}  # fmt: skip
STAGE_TITLES = {"nerf": "NeRF", "geometry": "geometry", "texture": "texture"}


def cost_table(results: Results, columns: list[Column]) -> Table:
    """Mean cost of training per stage and method: steps, seconds, and images through each network, all counted."""
    rows = []
    for column in columns:
        for stage, title in STAGE_TITLES.items():
            costs = [r["cost"][stage] for cell, r in results.items() if cell.column == column and stage in r["cost"]]
            if costs:
                means = [estimate([cost.get(name, 0) for cost in costs]).mean for name in COSTS]
                rows.append([column.title, title, *(f"{mean:.0f}" for mean in means)])
    return Table("Cost of training, mean per run", ["method", "stage", *COSTS.values()], rows)


def tables(results: Results, columns: list[Column], baseline: Column, backbones: Sequence[str]) -> list[Table]:
    """Everything: scores and paired differences of each backbone, then cost."""
    found = []
    for backbone in backbones:
        found += [
            score_table(results, columns, backbone),
            difference_table(results, columns, baseline, backbone),
        ]
    return [*found, cost_table(results, columns)]


def failures(results: Results) -> list[tuple[Cell, str]]:
    """Cells that failed, and why."""
    return [(cell, result["reason"]) for cell, result in results.items() if result["status"] != "done"]


def as_csv(results: Results, backbones: Sequence[str]) -> str:
    """One line per cell and backbone: method, prompt, seed, backbone, status, raw scores."""
    names = [metric.name for metric in METRICS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "prompt", "seed", "backbone", "status", *names])
    for cell, result in results.items():
        for backbone in backbones:
            scores = result["scores"].get(backbone, {})
            row = [cell.column.label, cell.prompt, cell.seed, backbone, result["status"]]
            writer.writerow([*row, *(scores.get(name, "") for name in names)])
    return text.getvalue()


def as_json(results: Results, found: list[Table], facts: dict[str, Any]) -> dict[str, Any]:
    """Facts of the comparison, its tables as text, and every cell."""
    return {
        **facts,
        "tables": [table._asdict() for table in found],
        "cells": [
            {"method": cell.column.label, "prompt": cell.prompt, "seed": cell.seed, **result}
            for cell, result in results.items()
        ],
    }
