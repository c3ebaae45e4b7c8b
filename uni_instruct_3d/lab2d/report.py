"""The laboratory's table, picture grid and κ plot."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from .experiments import KAPPAS, SWEEP_DIVERGENCES, SWEEP_WEIGHTINGS, Result
from .targets import TARGETS

COLUMNS = ("target", "method", "seed", "modes", "precision", "forward_kl", "reverse_kl", "sliced_w1", "critic_slope",
           "seconds")  # fmt: skip


def ordered(results: Sequence[Result], labels: Sequence[str]) -> list[Result]:
    """By target, then in the order of `labels`, then by seed."""
    rank = {label: i for i, label in enumerate(labels)}
    return sorted(results, key=lambda result: (result.target, rank[result.label], result.seed))


def table(results: Sequence[Result]) -> str:
    """Markdown table, one line per run."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for result in results:
        row = {**result.row(), "modes": f"{result.quality.modes}/{len(TARGETS[result.target]().means)}"}
        cells = [f"{row[name]:.3f}" if isinstance(row[name], float) and name != "seconds" else str(row[name])
                 for name in COLUMNS]  # fmt: skip
        cells = ["–" if cell == "None" else cell for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write in one piece: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def save_results(path: Path, results: Sequence[Result]) -> None:
    """All figures as JSON."""
    write_text(path, json.dumps([result.row() for result in results], indent=1) + "\n")


def _save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part.png")
    figure.savefig(partial, dpi=75)
    plt.close(figure)
    os.replace(partial, path)


def picture_grid(path: Path, results: Sequence[Result], columns: int = 6) -> None:
    """Samples of every run over the target's modes (red circles of three stds)."""
    panels = len(results)
    rows = -(-panels // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 2.35 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, result in zip(axes.flat, results):
        target = TARGETS[result.target]()
        for x, y in target.means.tolist():
            axis.add_patch(plt.Circle((x, y), 3 * target.std, fill=False, color="tab:red", linewidth=0.5))
        axis.plot(*result.samples[:2000].T.numpy(), ",", color="tab:blue", alpha=0.7)
        axis.set(xlim=(-2.3, 2.3), ylim=(-2.3, 2.3), aspect="equal")
        axis.set_title(f"{result.label}\n{result.quality.modes} modes, {result.quality.precision:.0%} on", fontsize=8)
    figure.suptitle(results[0].target)
    figure.tight_layout()
    _save(figure, path)


def kappa_plot(path: Path, results: Sequence[Result]) -> None:
    """Modes covered (top), precision and blurred forward KL against κ, one column per weighting."""
    rows = (
        ("modes", "modes covered of 25"),
        ("precision", "share within 3 std"),
        ("forward_kl", "forward KL (blurred)"),
    )
    figure, axes = plt.subplots(
        len(rows), len(SWEEP_WEIGHTINGS), figsize=(4 * len(SWEEP_WEIGHTINGS), 8), sharex=True, sharey="row"
    )
    figures = {}
    for result in results:
        figures.setdefault(result.label, []).append(result.row())
    for column, weighting in enumerate(SWEEP_WEIGHTINGS):
        axes[0, column].set_title(f"weighting {weighting}")
        for shift, divergence in enumerate(SWEEP_DIVERGENCES):
            # A little sideways, so that lines which coincide remain visible.
            x = np.array(KAPPAS) + 0.012 * (shift - 2)
            for line, (name, _) in enumerate(rows):
                values = [np.mean([run[name] for run in figures[f"{divergence}/{weighting}/{k}"]]) for k in KAPPAS]
                axes[line, column].plot(x, values, "o-", label=divergence)
    for line, (_, title) in enumerate(rows):
        axes[line, 0].set_ylabel(title)
    for axis in axes[-1]:
        axis.set_xlabel("path weight κ  (SiD −0.4, SIM 0, exact 1)")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    _save(figure, path)
