"""How a step grows: seconds, where they go and peak memory over every size that a user can set, with fitted exponents.

One axis at a time, around a base: rkl with adversarial term, frozen networks, one pass of the fake score, the
built-in teacher. Each row runs in a process of its own; rows that `--out` holds are kept, so that a call that was cut
short goes on. An exponent p says that a figure grows as the axis to the power p between its two largest values; memory
is counted above the smallest row of its axis. `breaks` is what would first be too much when an axis is doubled on: more
than `--memory` GiB, or more than `--patience` seconds per step, by these exponents.
The 2D trainer likewise: batch, picture size, processes (Uni-Instruct on small networks of CIFAR-10's make, random
weights).

    python scripts/benchmark.py scaling --out scaling.json --plot scaling.png
    python scripts/benchmark.py scaling --axes batch "grid" --quick
"""

from __future__ import annotations

import argparse
import math
import socket
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..command import COUNT, POSITIVE, require_file_place
from ._harness import CLOCK, Scene, Shares, peak_gib, project_config, reset_peak, seconds_now, step, watch
from ._rows import Rows, in_process

# axis -> (unit, values, the same quickly)
AXES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "picture": ("pixels a side, rendered", (64, 128, 256, 512), (8, 16)),
    "teacher picture": ("pixels a side, encoded", (64, 128, 256), (32, 64)),
    "batch": ("pictures of a step", (1, 2, 4, 8), (1, 2)),
    "samples per ray": ("samples", (32, 64, 128, 256), (8, 16)),
    "grid": ("cells a side", (32, 64, 128, 256), (8, 16)),
    "mesh": ("vertex layers a side", (32, 64, 128), (8, 16)),
    "2d batch": ("pictures of a step", (8, 16, 32, 64), (2, 4)),
    "2d picture": ("pixels a side", (8, 16, 32, 64), (8, 16)),
    "2d processes": ("processes, the batch shared", (1, 2), (1, 2)),
}
BASE = {"picture": 64, "batch": 2, "samples per ray": 64, "grid": 64}
QUICK_BASE = {"picture": 16, "batch": 1, "samples per ray": 8, "grid": 16}
GUIDANCE = {"method": "uni_instruct", "divergence": "rkl", "jacobian": "none", "fake_score": {"shared_pass": "always"}}
# Labels of `watch` that are one thing to a reader.
PARTS = {"render": "renderer", "encoder": "encoder", "teacher": "teacher", "fake score": "fake score",
         "discriminator": "discriminator", "optimiser": "optimiser", "other": "everything else"}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES), metavar="AXIS",
                        help=f"default: all; {', '.join(map(repr, AXES))}")  # fmt: skip
    parser.add_argument("--steps", type=COUNT, default=2, help="timed steps of a row, after one that is not")
    parser.add_argument("--memory", type=POSITIVE, default=24.0, help="GiB that there are")
    parser.add_argument("--patience", type=POSITIVE, default=60.0, help="seconds that a step may take")
    parser.add_argument("--most-seconds", type=POSITIVE, default=120.0, help="a row that takes longer is given up")
    parser.add_argument("--plot", type=Path, help="picture of all curves (.png, .svg)")
    parser.add_argument("--quick", action="store_true", help="two small values of each axis, for tests")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the 3D configuration")


def run(args: argparse.Namespace) -> dict:
    import threestudio  # noqa: F401  rows are forked with what is imported here
    import uni_instruct_guidance.distill2d.trainer
    import uni_instruct_guidance.guidance
    import uni_instruct_guidance.systems  # noqa: F401

    require_file_place("--plot", args.plot)
    job = {"steps": args.steps, "quick": args.quick, "overrides": args.overrides, "threads": torch.get_num_threads()}
    rows, table = Rows(args.out, job), {}
    for axis in args.axes:
        unit, usual, quick = AXES[axis]
        table[axis] = {"unit": unit}
        measure = _measure_2d if axis.startswith("2d") else _measure
        for value in quick if args.quick else usual:
            row = rows.get(
                f"{axis} {value}",
                lambda axis=axis, value=value, measure=measure: in_process(
                    measure, axis, value, job, most_seconds=args.most_seconds
                ),
            )
            table[axis][str(value)] = row
    summary = {axis: summarise(curve, args.memory, args.patience) for axis, curve in table.items()}
    if args.plot:
        plot(table, args.plot)
    return {"settings": job, "clock": CLOCK, "summary": summary, "rows": rows.rows}


# --- one row ----------------------------------------------------------------------------------------------------------


def _measure(axis: str, value: int, job: dict) -> dict:
    """A step of the 3D trainer; called in a process of its own."""
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    sizes = {**(QUICK_BASE if job["quick"] else BASE), axis: value}
    scene = Scene.build(*_scene(axis, sizes, job))
    guidance = scene.guidance(**GUIDANCE, bank={"size": 1, "steps": 1, "spread": 0})
    if axis == "teacher picture":
        guidance.encode_size = value
        guidance.bank = _NoBank(guidance.teacher, value)
    optimizer = scene.optimizer(guidance)
    scene.system.do_update_step(0, 0)
    reset_peak()
    step(scene, guidance, scene.next_batch(), optimizer)
    shares = Shares(seconds_now)
    watch(shares, scene, guidance)
    seconds = []
    shares.seconds.clear()
    for _ in range(job["steps"]):
        batch = scene.next_batch()
        shares.switch("other")
        start = seconds_now()
        step(scene, guidance, batch, optimizer, shares)
        seconds.append(seconds_now() - start)
    return {
        "seconds_per_step": round(statistics.median(seconds), 4),
        "peak_gib": round(peak_gib(), 3),
        "percent": _grouped(shares.percent()),
    }


class _NoBank:
    """Random latents of any size in place of the teacher's samples."""

    def __init__(self, teacher, side: int) -> None:
        self.shape = (teacher.shape[0], *([side * teacher.latent_size // teacher.image_size] * 2))

    def update(self, step: int) -> None:
        """Always the same."""

    def draw(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.randn(len(rows), *self.shape, device=rows.device)


def _scene(axis: str, sizes: dict[str, int], job: dict) -> tuple[Path, str, list[str]]:
    """Arguments of `Scene.build`."""
    given = [f"data.{key}={sizes['picture']}" for key in ("width", "height")] + [f"data.batch_size={sizes['batch']}"]
    levels = {"base_resolution": 4 if sizes["grid"] < 32 else 8}
    levels["n_levels"] = int(math.log2(sizes["grid"] // levels["base_resolution"])) + 1
    if axis == "mesh":
        given += [
            "system.geometry_convert_from=null", f"system.geometry.isosurface_resolution={sizes['mesh']}",
            "system.geometry.shape_init=sphere", "system.geometry.shape_init_params=0.4",
            "system.geometry.isosurface_remove_outliers=false", "system.guidance.gradient_size={scale: none}",
        ]  # fmt: skip
        return project_config("shapes-geometry.yaml"), "a red mug", [*given, *job["overrides"]]
    given += [f"system.renderer.num_samples_per_ray={sizes['samples per ray']}"]
    given += [f"system.geometry.pos_encoding_config.{key}={number}" for key, number in levels.items()]
    return project_config("shapes-nerf.yaml"), "a red mug", [*given, *job["overrides"]]


def _measure_2d(axis: str, value: int, job: dict) -> dict:
    """A step of the one-step trainer; called in a process of its own."""
    from uni_instruct_guidance.teachers.edm import build_network

    from . import distill2d

    torch.set_num_threads(job["threads"])
    side = value if axis == "2d picture" else 8 if job["quick"] else 16
    batch = value if axis == "2d batch" else 4 if job["quick"] else 16
    args = argparse.Namespace(
        batch=batch, micro_batch=None, precision="fp32", compile=False, steps=job["steps"],
        device="cuda" if torch.cuda.is_available() else "cpu",
    )  # fmt: skip
    network = build_network(
        {"preset": "digits-uncond", "img_resolution": side, "img_channels": 3, "channel_mult": (1, 2, 2)}
    )
    reset_peak()
    if axis == "2d processes":
        return _processes(args, network, value)
    clock = distill2d.Clock()
    with tempfile.TemporaryDirectory() as folder:
        module = distill2d.build(args, "uni_instruct rkl", network, folder)
        distill2d.burst(module, job["steps"] + 1, clock)
        return {
            "seconds_per_step": round(statistics.median(clock.seconds), 4),
            "peak_gib": round(peak_gib(), 3),
            "percent": distill2d.shares_of(module),
        }


def _processes(args: argparse.Namespace, network: Any, count: int) -> dict:
    """The batch over several processes that average their gradients, one thread each."""
    from . import distill2d

    torch.set_num_threads(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    results = context.Queue()
    workers = [
        context.Process(target=distill2d.one_of_several, args=(args, network, rank, count, port, results))
        for rank in range(count)
    ]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    return {
        "seconds_per_step": round(max(seconds for seconds, _ in found), 4),
        "peak_gib": round(sum(peak for _, peak in found), 3),
        "percent": {},
    }


def _grouped(percent: dict[str, float]) -> dict[str, float]:
    """Forwards and backwards together."""
    sums: dict[str, float] = {}
    for label, value in percent.items():
        part = next(name for start, name in PARTS.items() if label.startswith(start))
        sums[part] = round(sums.get(part, 0.0) + value, 1)
    return sums


# --- what the rows say ------------------------------------------------------------------------------------------------


def summarise(curve: dict[str, Any], memory: float, patience: float) -> dict[str, Any]:
    """Exponents between the two largest values, the largest share there, and what breaks first on the way up.

    Args:
        curve: {"unit": …, value: row}. memory: GiB. patience: seconds.
    """
    good = [(int(value), row) for value, row in curve.items() if value != "unit" and "error" not in row]
    failed = {value: row["error"] for value, row in curve.items() if value != "unit" and "error" in row}
    if len(good) < 2:
        return {"unit": curve["unit"], **({"failed": failed} if failed else {})}
    (low, a), (high, b) = good[-2:]
    base = good[0][1]["peak_gib"]
    ratio = math.log(high / low)
    time_exponent = math.log(b["seconds_per_step"] / a["seconds_per_step"]) / ratio
    above = [max(row["peak_gib"] - base, 1e-3) for row in (a, b)]
    memory_exponent = math.log(above[1] / above[0]) / ratio if len(good) > 2 else None
    most = max(b["percent"].items(), key=lambda item: item[1]) if b["percent"] else None
    grows = above[1] > 0.02 and memory_exponent is not None
    limits = {
        "memory": _reaches(high, above[1], memory - base, memory_exponent) if grows else math.inf,
        "time": _reaches(high, b["seconds_per_step"], patience, time_exponent),
    }
    first = min(limits, key=lambda name: limits[name])
    return {
        "unit": curve["unit"],
        "time_exponent": round(time_exponent, 2),
        "memory_exponent": None if memory_exponent is None or not grows else round(memory_exponent, 2),
        "largest_share": None if most is None else f"{most[0]} {most[1]:.0f} %",
        "breaks": None if limits[first] == math.inf else f"{first} at {limits[first]:.0f}",
        **({"failed": failed} if failed else {}),
    }


def _reaches(value: float, figure: float, limit: float, exponent: float) -> float:
    """Where figure · (x / value)^exponent meets the limit; infinite where it does not grow."""
    if figure >= limit:
        return value
    return value * (limit / figure) ** (1 / exponent) if exponent > 0.1 else math.inf


def plot(table: dict[str, dict], path: Path) -> None:
    """Seconds and memory of every axis, both logarithmic."""
    from matplotlib.figure import Figure

    from uni_instruct_guidance.core.files import atomically

    columns = 3
    lines = -(-len(table) // columns)
    figure = Figure(figsize=(4.0 * columns, 2.9 * lines), layout="constrained")
    for index, (axis, curve) in enumerate(table.items()):
        good = [(int(value), row) for value, row in curve.items() if value != "unit" and "error" not in row]
        left = figure.add_subplot(lines, columns, index + 1)
        values = [value for value, _ in good]
        seconds = [row["seconds_per_step"] for _, row in good]
        left.plot(values, seconds, "o-", color="#1f5fa8")
        left.set(xscale="log", yscale="log", title=axis, xlabel=curve["unit"])
        left.set_ylabel("seconds per step", color="#1f5fa8")
        left.set_xticks(values, [str(value) for value in values])
        least, most = min(seconds), max(seconds)
        left.set_ylim(least / 1.5, 1.5 * max(most, 3 * least))  # what hardly grows looks so
        left.set_yticks([least, most] if most > 1.3 * least else [least])
        left.yaxis.set_major_formatter("{x:.2g}")
        left.minorticks_off()
        right = left.twinx()
        right.plot(values, [row["peak_gib"] for _, row in good], "s--", color="#b4532a")
        right.set_ylabel("peak GiB", color="#b4532a")
        right.set_ylim(bottom=0)
    kind = path.suffix.lstrip(".") or "png"
    atomically(path, lambda partial: figure.savefig(partial, format=kind, dpi=110))
