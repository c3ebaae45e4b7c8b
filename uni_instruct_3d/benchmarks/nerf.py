"""Whole training steps of stage 1, method against method in one run, and where the time goes.

Every method takes its steps in turn on the same scene, cameras and teacher, so the ratios do not depend on the mood of
the machine. Reported: median seconds per step, its ratio to VSD, the share of rendering, teacher, fake score and
discriminator, and the renderer against itself without empty-space skipping.
Targets: Uni-Instruct at most 1.3 x VSD with jacobian none and 2.0 x with full; the renderer at least 3 x faster pruned.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from contextlib import contextmanager

import torch

from .. import ROOT
from ..command import COUNT, INDEX

# name -> overrides of system.guidance in the configuration
STEPS = {
    "sds": {"method": "sds"},
    "vsd": {"method": "vsd"},
    "rkl none": {"method": "uni_instruct", "divergence": "rkl", "jacobian": "none", "auxiliary": {"gan": 0.0}},
    "rkl none + gan": {"method": "uni_instruct", "divergence": "rkl", "jacobian": "none"},
    "fkl none": {"method": "uni_instruct", "divergence": "fkl", "jacobian": "none", "auxiliary": {"gan": 0.0}},
    "rkl full": {"method": "uni_instruct", "divergence": "rkl", "jacobian": "full", "auxiliary": {"gan": 0.0}},
    "fkl full": {"method": "uni_instruct", "divergence": "fkl", "jacobian": "full", "auxiliary": {"gan": 0.0}},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default=str(ROOT / "configs" / "shapes-nerf.yaml"))
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--rounds", type=COUNT, default=8, help="timed steps of each method")
    parser.add_argument(
        "--settle", type=INDEX, default=60, help="steps of SDS before, so that there is empty space to skip"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")


class Stopwatch:
    """Seconds by name, and how they add up to shares."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str):
        _synchronise()
        start = time.perf_counter()
        yield
        _synchronise()
        self.seconds[name] += time.perf_counter() - start

    def around(self, owner, method: str, name: str) -> None:
        """Time every call of a bound method."""
        call = getattr(owner, method)

        def timed(*args, **kwargs):
            with self(name):
                return call(*args, **kwargs)

        object.__setattr__(owner, method, timed)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _build(args: argparse.Namespace):
    """Scene, cameras, prompts from the configuration; the registered names need the host and the extension."""
    import threestudio
    import uni_instruct_guidance.guidance
    import uni_instruct_guidance.systems  # noqa: F401
    from threestudio.utils.config import load_config

    overrides = [f"system.prompt_processor.prompt={args.prompt}", "exp_root_dir=outputs/benchmark", *args.overrides]
    cfg = load_config(args.config, cli_args=overrides, n_gpus=1)
    system = threestudio.find(cfg.system_type)(cfg.system)
    data = threestudio.find(cfg.data_type)(cfg.data)
    data.setup("fit")
    prompts = threestudio.find(cfg.system.prompt_processor_type)(cfg.system.prompt_processor)()
    device = next(system.geometry.parameters()).device
    return cfg, system.train(), iter(data.train_dataloader()), prompts, device


def _guidance(cfg, name: str, **changes):
    from omegaconf import OmegaConf

    import threestudio

    block = OmegaConf.merge(cfg.system.guidance, {"warmup": {"steps": 0}}, changes)
    return threestudio.find(cfg.system.guidance_type)(block)


def _step(system, guidance, prompts, batch, optimizer, watch: Stopwatch) -> None:
    optimizer.zero_grad(set_to_none=True)
    with watch("render"):
        out = system(batch)
    losses = guidance(out["comp_rgb"], prompts, **batch)
    total = sum(value for key, value in losses.items() if key.startswith("loss_"))
    with watch("backward"):
        total.backward()
    optimizer.step()


def run(args: argparse.Namespace) -> dict:
    cfg, system, batches, prompts, device = _build(args)
    watches = {name: Stopwatch() for name in STEPS}
    guidances, optimizers = {}, {}
    for name, changes in STEPS.items():
        guidance = guidances[name] = _guidance(cfg, name, **changes)
        watch = watches[name]
        watch.around(guidance.networks, "_ask_teacher", "teacher")
        watch.around(guidance.networks, "_ask_fake", "fake score in the objective")
        watch.around(guidance, "_fake_score_loss", "fake score's own loss")
        watch.around(guidance, "_discriminator_loss", "discriminator")
        watch.around(guidance.teacher, "encode", "encode")
        parameters = [*system.geometry.parameters(), *guidance.parameters()]
        optimizers[name] = torch.optim.AdamW(parameters, lr=0.01, betas=(0.9, 0.99), eps=1e-15)

    def next_batch() -> dict:
        return {key: value.to(device) if torch.is_tensor(value) else value for key, value in next(batches).items()}

    for step in range(args.settle):
        system.do_update_step(0, step)
        _step(system, guidances["sds"], prompts, next_batch(), optimizers["sds"], Stopwatch())
    for name in STEPS:  # first calls allocate, and draw the bank of teacher samples
        _step(system, guidances[name], prompts, next_batch(), optimizers[name], Stopwatch())
        watches[name].seconds.clear()

    seconds = defaultdict(list)
    for _ in range(args.rounds):
        batch = next_batch()
        for name in STEPS:
            _synchronise()
            start = time.perf_counter()
            _step(system, guidances[name], prompts, batch, optimizers[name], watches[name])
            _synchronise()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds_per_step": {name: round(value, 4) for name, value in medians.items()},
        "ratio_to_vsd": {name: round(value / medians["vsd"], 3) for name, value in medians.items()},
        "share_of_step": {name: _shares(watches[name], sum(seconds[name])) for name in STEPS},
        "renderer": _renderer_ratio(system, next_batch(), args.rounds),
    }


def _shares(watch: Stopwatch, total: float) -> dict[str, float]:
    shares = {name: round(value / total, 3) for name, value in watch.seconds.items()}
    return shares | {"everything else": round(1 - sum(shares.values()), 3)}


def _renderer_ratio(system, batch: dict, rounds: int) -> dict[str, float]:
    """Forward and backward with the occupancy grid as trained, and with every cell occupied."""
    renderer, grid = system.renderer, system.renderer.estimator
    occupied = float(grid.binaries.float().mean())
    trained = grid.binaries.clone()
    settings = {"pruned": (trained, True), "dense": (torch.ones_like(trained), False)}
    seconds = defaultdict(list)
    for _ in range(rounds):
        for name, (binaries, prune) in settings.items():
            grid.binaries.copy_(binaries)
            renderer.cfg.grid_prune = prune
            _synchronise()
            start = time.perf_counter()
            out = system(batch)
            (out["comp_rgb"].mean() + out["opacity"].mean()).backward()
            _synchronise()
            seconds[name].append(time.perf_counter() - start)
    grid.binaries.copy_(trained)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "share_of_cells_occupied": round(occupied, 3),
        "seconds_pruned": round(medians["pruned"], 4),
        "seconds_dense": round(medians["dense"], 4),
        "dense_over_pruned": round(medians["dense"] / medians["pruned"], 2),
    }
