"""One-step distillation: seconds per thousand images of every method on one network, in one run, and where they go.

Every method takes short bursts of training steps in turn with the others, so the ratios do not depend on the mood of
the machine; figures are medians over all bursts. Weights and images are random: the cost does not depend on them.
A second pass with a clock around every network, its backward included, gives the shares of time.
Target: Uni-Instruct at most 1.05 x SiDA, since both need the same passes.

    python scripts/benchmark.py distill2d
    python scripts/benchmark.py distill2d --network imagenet64 --precision bf16 --compile --batch 64
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from copy import deepcopy

import torch
from pytorch_lightning.callbacks import Callback

from ..command import COUNT, device
from ._harness import Shares, peak_gib, reset_peak, synchronise

# name -> method block of the configuration; beside Uni-Instruct's divergences the rows as they are.
CASES = {
    "diff_instruct": {"name": "diff_instruct"},
    "dmd2": {"name": "dmd2"},
    "f_distill": {"name": "f_distill"},
    "sid": {"name": "sid"},
    "sida": {"name": "sida"},
    "uni_instruct rkl": {"name": "uni_instruct", "divergence": "rkl"},
    "uni_instruct fkl": {"name": "uni_instruct", "divergence": "fkl"},
    "uni_instruct jkl": {"name": "uni_instruct", "divergence": "jkl"},
}
NETWORKS = ("digits-cond", "digits-uncond", "cifar10-uncond", "cifar10-cond", "imagenet64")
RATIOS = ("sida", "dmd2", "diff_instruct", "sid")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--network", choices=NETWORKS, default="digits-cond")
    parser.add_argument("--methods", nargs="+", choices=list(CASES), default=list(CASES), metavar="METHOD",
                        help=f"default: all; {', '.join(map(repr, CASES))}")  # fmt: skip
    parser.add_argument("--batch", type=COUNT, default=64)
    parser.add_argument("--micro-batch", type=COUNT, help="images in one pass; default: the batch")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--compile", action="store_true", help="the networks through torch.compile")
    parser.add_argument("--rounds", type=COUNT, default=5, help="bursts of each method")
    parser.add_argument("--steps", type=COUNT, default=3, help="timed steps of a burst, after one that is not")
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")


class Clock(Callback):
    """Seconds of every training step, the device's queue drained at its ends; the first of a burst does not count."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer, module, *_) -> None:
        synchronise()
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        synchronise()
        if batch_idx > 0:
            self.seconds.append(time.perf_counter() - self._start)


def build(args: argparse.Namespace, name: str, network, folder: str):
    """The trainer of one case on a network, random images as its data."""
    from uni_instruct_guidance.distill2d.config import DistillConfig, WarmupConfig
    from uni_instruct_guidance.distill2d.data import ArrayData
    from uni_instruct_guidance.distill2d.fit import compile_networks
    from uni_instruct_guidance.distill2d.trainer import build_distill_module

    on_gpu = args.device.startswith("cuda")
    cfg = DistillConfig(
        method=dict(CASES[name]), batch=args.batch, micro_batch=args.micro_batch, precision=args.precision,
        log_every=10**9, warmup=WarmupConfig(0, 0, 0),
        trainer={"accelerator": "gpu" if on_gpu else "cpu", "devices": 1},
    )  # fmt: skip
    cfg.bank.path, cfg.bank.count, cfg.bank.batch = folder, args.batch, args.batch
    shape = (network.img_channels, network.img_resolution, network.img_resolution)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4 * args.batch, *shape), generator=generator, dtype=torch.uint8)
    labels = torch.arange(len(images)) % max(network.label_dim, 1)
    labels[0] = max(network.label_dim, 1) - 1  # the greatest one tells the number of classes
    data = ArrayData("random images", images, labels)
    module = build_distill_module(cfg, teacher=deepcopy(network), data=data)
    if args.compile:
        compile_networks(module)
    return module


def burst(module, steps: int, *callbacks: Callback) -> None:
    """A few training steps of Lightning's loop, then everything off the device."""
    from uni_instruct_guidance.distill2d.fit import build_trainer

    module.cfg.steps = module.done_steps + steps
    build_trainer(module.cfg, None, list(callbacks)).fit(module)
    module.cpu()
    module.teacher.to("cpu")


def shares_of(module) -> dict[str, float]:
    """Shares of time of two steps, every network's calls and backward passes counted."""
    shares = Shares()
    networks = {"student": module.student, "teacher": module.teacher.network, "fake score": module.fake}
    for label, network in networks.items():
        for method in ("forward_with_features", "encode_features"):
            shares.around(network, method, label)
    if module.uses_discriminator:
        shares.around(module.head, "forward", "discriminator head")
    shares.around(module, "guarded_step", "optimisers")

    class Bounds(Callback):
        def on_train_batch_start(self, *_) -> None:
            shares.switch("other")
            if module.done_steps == first:
                shares.seconds.clear()

        def on_train_batch_end(self, *_) -> None:
            shares.switch("other")

    first = module.done_steps + 1
    burst(module, 3, Bounds())
    return shares.percent()


def one_of_several(args: argparse.Namespace, network, rank: int, count: int, port: int, results) -> None:
    """A few steps of Uni-Instruct as process `rank` of `count`, told so as torchrun tells it; puts (seconds per step,
    peak GiB) into `results`."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0,
               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "benchmark"}  # fmt: skip
    os.environ.update({name: str(value) for name, value in numbers.items()})
    reset_peak()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        burst(build(args, "uni_instruct rkl", network, folder), args.steps + 1, clock)
    results.put((statistics.median(clock.seconds), peak_gib()))


def run(args: argparse.Namespace) -> dict:
    import logging

    from uni_instruct_guidance.teachers.edm import build_network

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    on_gpu = args.device.startswith("cuda")
    network = build_network(args.network)
    seconds: dict[str, list[float]] = {name: [] for name in args.methods}
    peak = dict.fromkeys(args.methods, 0)
    with tempfile.TemporaryDirectory() as folder:
        modules = {name: build(args, name, network, folder) for name in args.methods}
        for round_ in range(args.rounds + 1):  # the first settles caches and compiles
            for name, module in modules.items():
                clock = Clock()
                if on_gpu:
                    torch.cuda.reset_peak_memory_stats()
                burst(module, args.steps + 1, clock)
                if round_:
                    seconds[name] += clock.seconds
                if on_gpu:
                    peak[name] = max(peak[name], torch.cuda.max_memory_allocated())
        shares = {name: shares_of(module) for name, module in modules.items()}

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    figures: dict = {
        "network": args.network,
        "parameters_million": round(sum(p.numel() for p in network.parameters()) / 1e6, 2),
        "batch": args.batch, "precision": args.precision, "compile": args.compile,
    }  # fmt: skip
    for name, median in medians.items():
        figures[name] = {
            "seconds_per_kimg": round(1000 * median / args.batch, 3),
            "steps_per_second": round(1 / median, 3),
            "fake_updates": modules[name].method.fake_updates,
            "time_percent": shares[name],
        }
        if on_gpu:
            figures[name]["peak_memory_gib"] = round(peak[name] / 2**30, 2)
    figures["ratios"] = {
        f"{name} / {other}": round(medians[name] / medians[other], 3)
        for name in medians if name.startswith("uni_instruct") for other in RATIOS if other in medians
    }  # fmt: skip
    return figures
