"""The stages of one cell, run in this process, and what they cost: seconds and network calls, both counted."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from threestudio.extensions import load_extensions
from threestudio.utils.files import atomic_path
from threestudio.utils.misc import set_device
from threestudio.utils.sealed import save_sealed

from .. import ROOT
from ..pipeline import stage_runner
from ..pipeline.events import StageError
from ..pipeline.stage_runner import StageJob
from ..pipeline.stages import Stage
from .matrix import Cell, Plan
from .rungs import RUNGS, START

__all__ = ["Cost", "StageError", "prepare", "run_stage", "watched"]


class Cost(Callback):
    """Counts what training costs; a run that is resumed from a checkpoint goes on counting.

    ``seconds``: wall clock of the training steps, without set-up and validation; ``cpu_seconds``: of this
    process meanwhile. ``<network>_calls``: forward passes; ``<network>_images``: rows of their batches, so that
    classifier-free guidance counts twice whether its halves come in one pass or in two. Networks: teacher's and fake
    score's U-Net, encoder of the VAE.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._handles: list = []
        self._started = (0.0, 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        guidance = getattr(pl_module, "guidance", None)
        for name, network in watched(guidance).items():
            self._handles.append(network.register_forward_pre_hook(self._counter(name), with_kwargs=True))

    def _counter(self, name: str):
        def count(_module, args, kwargs) -> None:
            batch = args[0] if args else next(iter(kwargs.values()))
            self.counts[f"{name}_calls"] += 1
            self.counts[f"{name}_images"] += len(batch)

        return count

    def on_train_batch_start(self, *_) -> None:
        self._started = (time.perf_counter(), time.process_time())

    def on_train_batch_end(self, *_) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a GPU is still at work when its orders are given
        self.counts["seconds"] += time.perf_counter() - self._started[0]
        self.counts["cpu_seconds"] += time.process_time() - self._started[1]
        self.counts["steps"] += 1

    def teardown(self, *_, **__) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def state_dict(self) -> dict:
        return dict(self.counts)

    def load_state_dict(self, state_dict: dict) -> None:
        self.counts = Counter(state_dict)


class KeepStart(Callback):
    """Leaves the weights that a stage begins with in ckpts/start.ckpt, which renders like any other checkpoint."""

    def __init__(self, trial: Path) -> None:
        self.path = trial / "ckpts" / START

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.path.is_file():  # a run that goes on is not at its start
            parts = ("geometry.", "material.", "renderer.")
            weights = {key: value.cpu() for key, value in pl_module.state_dict().items() if key.startswith(parts)}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_sealed({"state_dict": weights, "epoch": 0, "global_step": 0}, self.path)


def watched(guidance: nn.Module | None) -> dict[str, nn.Module]:
    """Networks whose calls are counted, as far as this guidance has them."""
    teacher = getattr(guidance, "teacher", None)
    fake = getattr(getattr(guidance, "networks", None), "fake", None)
    found = {
        "teacher": getattr(teacher, "unet", None),
        "fake": getattr(fake, "unet", None),
        "vae": getattr(getattr(teacher, "vae", None), "encoder", None),
    }
    return {name: network for name, network in found.items() if network is not None}


@lru_cache(maxsize=1)
def prepare(cpu: bool) -> None:
    """What a fresh process needs to look at a stage that another one has trained: device and registered names."""
    if cpu:
        set_device("cpu")
    load_extensions([ROOT / "custom"])
    from . import fitted  # noqa: F401  registers its system, which needs the extension's


def run_stage(stage: Stage, cell: Cell, plan: Plan, folder: Path) -> dict[str, float]:
    """Train one stage into ``folder/<stage>``, or take it as it is where it is finished; returns its cost.

    A stage that was cut short goes on from its last checkpoint.

    Raises:
        StageError: it stopped before its end.
    """
    job = StageJob(
        stage, folder, tuple(plan.configs(stage, cell.column)), cell.prompt, cell.seed, folder / f"{stage.name}.log",
        tuple(plan.stage_overrides(stage, cell.column)), "cpu" if plan.cpu else "auto",
    )  # fmt: skip
    left, cost = job.trial / "cost.json", Cost()
    if not left.is_file():  # without its cost it is not finished; a checkpoint knows the cost up to its step
        (job.trial / stage_runner.DONE).unlink(missing_ok=True)

    def leave() -> None:
        shutil.rmtree(job.trial / "code", ignore_errors=True)  # a copy of the project in each of a hundred cells
        with atomic_path(left) as temporary:
            temporary.write_text(json.dumps(cost.counts, indent=2) + "\n")

    asked = [RUNGS[backbone] for backbone in plan.backbones]
    keep = [KeepStart(job.trial)] if any(rung.start and rung.stage == stage.name for rung in asked) else []
    stage_runner.run_stage(job, [cost, *keep], before_done=leave)
    return json.loads(left.read_text())
