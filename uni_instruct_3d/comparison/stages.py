"""The stages of one cell, run in this process, and what they cost: seconds and network calls, both counted."""

from __future__ import annotations

import contextlib
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
from threestudio.runner import run
from threestudio.utils.files import atomic_path
from threestudio.utils.misc import set_device

from .. import ROOT
from ..pipeline.stages import Stage, quoted
from .matrix import Cell, Plan


class StageError(RuntimeError):
    """A stage did not come to its end; the message is the last line that it said."""


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


def run_stage(stage: Stage, cell: Cell, plan: Plan, folder: Path) -> dict[str, float]:
    """Train one stage into ``folder/<stage>``, or take it as it is where it is finished; returns its cost.

    A stage that was cut short goes on from its last checkpoint.

    Raises:
        StageError: it stopped before its end.
    """
    trial = folder / stage.name
    done = trial / "cost.json"
    if done.is_file():
        return json.loads(done.read_text())
    overrides = [
        f"exp_root_dir={folder.parent}", f"name={folder.name}", f"tag={stage.name}", "use_timestamp=false",
        f"seed={cell.seed}", f"system.prompt_processor.prompt={quoted(cell.prompt)}",
    ]  # fmt: skip
    if stage.after:
        overrides.append(f"{stage.starts_from}={folder / stage.after / 'ckpts' / 'last.ckpt'}")
    last = trial / "ckpts" / "last.ckpt"
    if last.is_file():
        overrides.append(f"resume={last}")
    cost = Cost()
    log = folder / f"{stage.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        status = run(
            [str(path) for path in plan.configs(stage, cell.column)],
            "train",
            [*overrides, *plan.stage_overrides(stage, cell.column)],
            [ROOT / "custom"],
            cpu=plan.cpu,
            callbacks=[cost],
        )
    if status or not last.is_file():
        raise StageError(f"{stage.name}: {last_line(log)}")
    shutil.rmtree(trial / "code", ignore_errors=True)  # a copy of the project in each of a hundred cells
    with atomic_path(done) as temporary:
        temporary.write_text(json.dumps(cost.counts, indent=2) + "\n")
    return dict(cost.counts)


def last_line(log: Path) -> str:
    """The last thing a log says, without the progress bars that overwrite themselves."""
    lines = [line.split("\r")[-1].strip() for line in log.read_text(encoding="utf-8").splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing").removeprefix("error: ")
