"""Curves as small SVG pictures."""

from __future__ import annotations

import io
import re

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from .collect import Curve

GROUPS = {
    "Losses": re.compile(r"(^|/)loss|(^|_)value$"),
    "Density ratio and discriminator": re.compile(r"log_r|ratio|logit|discriminator|posterior|(^|/)h_|weight_ess"),
    "Gradients and times": re.compile(r"grad_norm|step$|skipped|score_gap"),
}
"""Heading -> names of the curves under it; the first that matches has it, others are left out."""

MAX_CURVES = 12


def charts(curves: dict[str, Curve]) -> list[tuple[str, str]]:
    """(heading, SVG) of every group that has curves; a grid of small plots, one curve each, with a running mean."""
    made = []
    left = {name: curve for name, curve in curves.items() if len(curve) > 1}
    for heading, pattern in GROUPS.items():
        chosen = [name for name in sorted(left) if pattern.search(name)][:MAX_CURVES]
        if chosen:
            made.append((heading, _grid({name: left[name] for name in chosen})))
        left = {name: curve for name, curve in left.items() if not pattern.search(name)}
    return made


def summary(curves: dict[str, Curve]) -> list[tuple[str, float, float, float, float]]:
    """(name, mean of the last tenth, last, lowest, highest) of the density-ratio curves."""
    pattern = GROUPS["Density ratio and discriminator"]
    rows = []
    for name in sorted(curves):
        if pattern.search(name) and not GROUPS["Losses"].search(name):
            values = [value for _, value in curves[name]]
            tail = values[-max(1, len(values) // 10) :]
            rows.append((name, sum(tail) / len(tail), values[-1], min(values), max(values)))
    return rows


def _grid(curves: dict[str, Curve], columns: int = 4) -> str:
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3 * columns, 2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axis, (name, curve) in zip(axes, curves.items()):
        steps, values = zip(*curve)
        axis.plot(steps, values, color="#9db7d5", linewidth=0.8)
        axis.plot(steps, _smooth(values), color="#1f4e86", linewidth=1.4)
        axis.set_title(name.removeprefix("train/"), fontsize=8)
        axis.tick_params(labelsize=7)
        axis.margins(x=0)
    for axis in axes[len(curves) :]:
        axis.set_axis_off()
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _smooth(values: tuple[float, ...]) -> list[float]:
    """Exponential running mean over about a twentieth of the curve."""
    keep, mean, out = 1 - 1 / max(1, len(values) // 20), values[0], []
    for value in values:
        mean = keep * mean + (1 - keep) * value
        out.append(mean)
    return out
