"""Whole training steps of stage 1, method against method in one run, and where the time goes.

Every method takes its steps in turn on the same scene, cameras and teacher, so the ratios do not depend on the mood of
the machine. Reported: median seconds per step, its ratio to VSD with passes of its own, the same of the fastest steps
(which other work on the machine disturbed least), the share of everything that a step does (forwards and backwards),
and the renderer against itself without empty-space skipping.
Targets: Uni-Instruct with adversarial term at most 0.95 x VSD with frozen networks and 1.2 x through them; forward and
Jeffreys KL within 0.05 of reverse KL; the renderer at least 3 x faster pruned.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict

from ..command import COUNT, INDEX
from ._harness import CLOCK, Scene, Shares, project_config, seconds_now, step, watch


def _uni(divergence: str, jacobian: str, gan: bool = True, shared_pass: str = "always") -> dict:
    block = {"method": "uni_instruct", "divergence": divergence, "jacobian": jacobian}
    return {**block, "fake_score": {"shared_pass": shared_pass}, **({} if gan else {"auxiliary": {"gan": 0.0}})}


# name -> overrides of system.guidance in the configuration; "separate": the fake score is asked anew for each use
STEPS = {
    "sds": {"method": "sds"},
    "vsd separate": {"method": "vsd", "fake_score": {"shared_pass": "never"}},
    "vsd": {"method": "vsd", "fake_score": {"shared_pass": "always"}},
    "rkl none, no gan": _uni("rkl", "none", gan=False),
    "rkl none": _uni("rkl", "none"),
    "rkl none separate": _uni("rkl", "none", shared_pass="never"),
    "fkl none": _uni("fkl", "none"),
    "jkl none": _uni("jkl", "none"),
    "rkl full": _uni("rkl", "full"),
    "rkl full separate": _uni("rkl", "full", shared_pass="never"),
    "fkl full": _uni("fkl", "full"),
    "jkl full": _uni("jkl", "full"),
}
YARDSTICK = "vsd separate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default=str(project_config("shapes-nerf.yaml")))
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--methods", nargs="+", choices=list(STEPS), default=list(STEPS), metavar="METHOD",
                        help=f"beside {YARDSTICK!r}; default: all; {', '.join(map(repr, STEPS))}")  # fmt: skip
    parser.add_argument("--rounds", type=COUNT, default=8, help="timed steps of each method")
    parser.add_argument(
        "--settle", type=INDEX, default=60, help="steps of SDS before, so that there is empty space to skip"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")


def run(args: argparse.Namespace) -> dict:
    names = [name for name in STEPS if name in {YARDSTICK, *args.methods}]
    scene = Scene.build(args.config, args.prompt, args.overrides)
    settling = scene.guidance(**STEPS["sds"])
    optimizer = scene.optimizer(settling)
    for number in range(args.settle):
        scene.system.do_update_step(0, number)
        step(scene, settling, scene.next_batch(), optimizer)
    guidances = {name: scene.guidance(**STEPS[name]) for name in names}
    optimizers = {name: scene.optimizer(guidance) for name, guidance in guidances.items()}
    for name, guidance in guidances.items():  # first calls allocate, and draw the bank of teacher samples
        step(scene, guidance, scene.next_batch(), optimizers[name])

    seconds = defaultdict(list)
    for _ in range(args.rounds):
        batch = scene.next_batch()
        for name in names:
            start = seconds_now()
            step(scene, guidances[name], batch, optimizers[name])
            seconds[name].append(seconds_now() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: round(value / medians[YARDSTICK], 3) for name, value in medians.items()}
    fastest = {name: min(values) for name, values in seconds.items()}
    return {
        "clock": CLOCK,
        "seconds_per_step": {name: round(value, 4) for name, value in medians.items()},
        "ratio_of_fastest_steps": {name: round(value / fastest[YARDSTICK], 3) for name, value in fastest.items()},
        f"ratio_to_{YARDSTICK.replace(' ', '_')}": ratios,
        "targets_met": _targets(ratios),
        "percent_of_step": {name: _shares(scene, guidances[name], optimizers[name]) for name in names},
        "renderer": _renderer_ratio(scene, args.rounds),
    }


def _targets(ratios: dict[str, float]) -> dict[str, bool]:
    """Those whose methods were asked for."""
    found = {}
    for jacobian, limit in {"none": 0.95, "full": 1.2}.items():
        base = ratios.get(f"rkl {jacobian}")
        if base is not None:
            found[f"rkl {jacobian} <= {limit} x {YARDSTICK}"] = base <= limit
            for other in ("fkl", "jkl"):
                if f"{other} {jacobian}" in ratios:
                    near = abs(ratios[f"{other} {jacobian}"] - base) <= 0.05
                    found[f"{other} {jacobian} within 0.05 of rkl"] = near
    return found


def _shares(scene: Scene, guidance, optimizer, steps: int = 3) -> dict[str, float]:
    """Percent of a step by what it does, forwards and backwards; clocked steps after the timed ones."""
    shares, forward = Shares(seconds_now), scene.system.forward
    watch(shares, scene, guidance)
    shares.switch("other")
    shares.seconds.clear()
    for _ in range(steps):
        batch = scene.next_batch()
        shares.switch("other")
        step(scene, guidance, batch, optimizer, shares)
    object.__setattr__(scene.system, "forward", forward)
    return shares.percent()


def _renderer_ratio(scene: Scene, rounds: int) -> dict[str, float]:
    """Forward and backward with the occupancy grid as trained, and with every cell occupied."""
    system, batch = scene.system, scene.next_batch()
    renderer, grid = system.renderer, system.renderer.estimator
    occupied = float(grid.binaries.float().mean())
    trained = grid.binaries.clone()
    settings = {"pruned": (trained, True), "dense": (trained.new_ones(trained.shape), False)}
    seconds = defaultdict(list)
    for _ in range(rounds):
        for name, (binaries, prune) in settings.items():
            grid.binaries.copy_(binaries)
            renderer.cfg.grid_prune = prune
            start = seconds_now()
            out = system(batch)
            (out["comp_rgb"].mean() + out["opacity"].mean()).backward()
            seconds[name].append(seconds_now() - start)
    grid.binaries.copy_(trained)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "share_of_cells_occupied": round(occupied, 3),
        "seconds_pruned": round(medians["pruned"], 4),
        "seconds_dense": round(medians["dense"], 4),
        "dense_over_pruned": round(medians["dense"] / medians["pruned"], 2),
    }
