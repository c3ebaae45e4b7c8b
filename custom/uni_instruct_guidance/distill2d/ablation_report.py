"""The ablation's table, figure and verdicts."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from scipy.stats import t as student_t

from ..core.files import atomically
from .ablation import CELLS

Result = dict[str, Any]


@dataclass(frozen=True)
class Summary:
    """One cell over its seeds: {figure: (mean, standard deviation)}; the deviation of a single seed is NaN."""

    cell: str
    seeds: int
    figures: dict[str, tuple[float, float]]


def spaces_of(teacher: Result) -> list[str]:
    """Feature spaces, the judge's main one first."""
    return sorted((name for name in teacher["floor"]), key=lambda space: space == "pixel")


def summarise(results: Sequence[Result], teacher: Result) -> list[Summary]:
    """Mean and deviation of every figure, and of the ratio to the teacher in every space, in the table's order."""
    summaries = []
    for name in CELLS:
        runs = [result for result in results if result["cell"] == name]
        if not runs:
            continue
        figures = {f"fd_{space}": [run[f"fd_{space}"] for run in runs] for space in spaces_of(teacher)}
        ratios = {f"ratio_{s}": [v / teacher[f"fd_{s}"] for v in figures[f"fd_{s}"]] for s in spaces_of(teacher)}
        others = ("precision", "recall", "coverage", "effective_classes", "accuracy", "seconds")
        figures |= ratios | {key: [run[key] for run in runs] for key in others if key in runs[0]}
        spread = {
            key: (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan)
            for key, values in figures.items()
        }
        summaries.append(Summary(name, len(runs), spread))
    return summaries


def markdown(summaries: Sequence[Summary], teacher: Result) -> str:
    """The table, teacher and floor included."""
    spaces = spaces_of(teacher)
    columns = [*(f"fd_{s}" for s in spaces), *(f"ratio_{s}" for s in spaces), "precision", "recall", "coverage"]
    columns += [key for key in ("accuracy",) if key in teacher]
    lines = ["| cell | seeds | " + " | ".join(columns) + " | paper's FID |", "|---" * (len(columns) + 3) + "|"]
    for row in summaries:
        cells = [_spread(*row.figures[column]) for column in columns]
        lines.append(f"| {row.cell} | {row.seeds} | " + " | ".join(cells) + f" | {CELLS[row.cell].paper:.2f} |")
    alone = [f"{teacher[column]:.3f}" if column in teacher else "1" for column in columns]
    lines.append("| teacher, 35 evaluations | | " + " | ".join(alone) + " | 1.97 |")
    floor = [f"{teacher['floor'][c.removeprefix('fd_')]:.3f}" if c.startswith("fd_") else "" for c in columns]
    lines.append("| halves of the data | | " + " | ".join(floor) + " | |")
    return "\n".join(lines) + "\n"


def _spread(mean: float, deviation: float) -> str:
    return f"{mean:.3f}" if math.isnan(deviation) else f"{mean:.3f} ± {deviation:.3f}"


def as_csv(results: Sequence[Result]) -> str:
    """One line per run."""
    names = [name for name in results[0] if name not in ("settings", "skipped")]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(results)
    return text.getvalue()


@dataclass(frozen=True)
class Claim:
    """What the paper's table says: every cell of `better` has a lower distance than every one of `worse`."""

    text: str
    better: tuple[str, ...]
    worse: tuple[str, ...]


_KL_GAN = ("jkl + gan", "rkl + gan", "fkl + gan")
CLAIMS = (
    Claim("GAN only is the worst", tuple(name for name in CELLS if name != "gan only"), ("gan only",)),
    Claim("GAN only is worse than every KL", (*_KL_GAN, "rkl", "fkl"), ("gan only",)),
    Claim("chi2 is worse than JKL, RKL, FKL", _KL_GAN, ("chi2 + gan",)),
    Claim("JS is worse than JKL, RKL, FKL", _KL_GAN, ("js + gan",)),
    Claim("the GAN helps RKL", ("rkl + gan",), ("rkl",)),
    Claim("the GAN helps FKL", ("fkl + gan",), ("fkl",)),
    Claim("JKL is the best from the teacher", ("jkl + gan",), ("rkl + gan", "fkl + gan", "rkl", "fkl")),
    Claim("an RKL start helps RKL", ("rkl + gan, from rkl",), ("rkl + gan",)),
    Claim("an RKL start helps FKL", ("fkl + gan, from rkl",), ("fkl + gan",)),
    Claim("after an RKL start FKL is better than RKL", ("fkl + gan, from rkl",), ("rkl + gan, from rkl",)),
)


@dataclass(frozen=True)
class Verdict:
    """Lead of the better cells, lowest of `worse` − highest of `better`, in units of the distance.

    Attributes:
        margin: mean over seeds. error: its standard error over seeds (NaN for one seed).
        agree, seeds: seeds with a positive lead, of how many.
        verdict: confirmed or refuted where Student's 95 % interval of the margin leaves out 0, else open.
    """

    claim: str
    margin: float
    error: float
    agree: int
    seeds: int
    verdict: str


def judge_claims(results: Sequence[Result], figure: str) -> list[Verdict]:
    """Verdicts on every claim whose cells were all run, seed by seed (runs of one seed share noise and data order)."""
    value = {(result["cell"], result["seed"]): result[figure] for result in results}
    verdicts = []
    for claim in CLAIMS:
        cells = (*claim.better, *claim.worse)
        seeds = [s for s in sorted({seed for _, seed in value}) if all((cell, s) in value for cell in cells)]
        if seeds:
            leads = [min(value[c, s] for c in claim.worse) - max(value[c, s] for c in claim.better) for s in seeds]
            verdicts.append(_verdict(claim.text, leads))
    return verdicts


def _verdict(claim: str, leads: Sequence[float]) -> Verdict:
    count, mean = len(leads), statistics.fmean(leads)
    error = statistics.stdev(leads) / math.sqrt(count) if count > 1 else math.nan
    decided = count > 1 and abs(mean) > student_t.ppf(0.975, count - 1) * error
    verdict = ("confirmed" if mean > 0 else "refuted") if decided else "open"
    return Verdict(claim, mean, error, sum(lead > 0 for lead in leads), count, verdict)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """One line per claim."""
    lines = ["| claim of the paper's Table 4 | lead | seeds that agree | at 95 % |", "|---|---|---|---|"]
    for v in verdicts:
        error = "" if math.isnan(v.error) else f" ± {v.error:.3f}"
        lines.append(f"| {v.claim} | {v.margin:+.3f}{error} | {v.agree} of {v.seeds} | {v.verdict} |")
    return "\n".join(lines) + "\n"


def figure(path: Path, summaries: Sequence[Summary], teacher: Result) -> None:
    """Distance of every cell with its deviation, one panel per space, the teacher's and the floor as lines."""
    spaces = spaces_of(teacher)
    plot, axes = plt.subplots(1, len(spaces), figsize=(5.2 * len(spaces), 4.2), sharey=True, squeeze=False)
    rows = range(len(summaries))
    for axis, space in zip(axes[0], spaces):
        means, deviations = zip(*(row.figures[f"fd_{space}"] for row in summaries))
        errors = [0 if math.isnan(d) else d for d in deviations]
        axis.errorbar(means, rows, xerr=errors, fmt="o", capsize=3)
        axis.axvline(teacher[f"fd_{space}"], color="tab:red", label="teacher, 35 evaluations")
        axis.axvline(teacher["floor"][space], color="grey", linestyle=":", label="halves of the data")
        axis.set(xscale="log", xlabel=f"Fréchet distance, {space} (mean ± s.d. of the seeds)", yticks=rows)
        axis.grid(axis="x", which="both", alpha=0.3)
    axes[0, 0].set_yticklabels([row.cell for row in summaries])
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(fontsize=8)
    plot.tight_layout()
    _save(plot, path)


def grids(path: Path, folders: dict[str, Path], columns: int = 4) -> None:
    """The sample grids of several folders side by side under their names."""
    rows = -(-len(folders) // columns)
    plot, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 3.4 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, folder) in zip(axes.flat, folders.items()):
        axis.imshow(plt.imread(folder / "grid.png"))
        axis.set_title(name, fontsize=9)
    plot.tight_layout()
    _save(plot, path)


def _save(plot, path: Path) -> None:
    atomically(path, lambda partial: plot.savefig(partial, dpi=90, format="png"))
    plt.close(plot)
