"""One run from a ready module to its result: Lightning's trainer for this machine, resume, folder, errors."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from threestudio.utils.guard import only_run, remove_leftovers, stopping_at_once
from threestudio.utils.misc import get_rank

from ..core.errors import UserError, require_writable
from .base_module import StepModule
from .callbacks import LAST, Checkpoints, Grids, Log, SealedCheckpointIO, read_checkpoint
from .config import PRECISIONS, RunConfig

# Keys that may differ between a run and the run that goes on with it: they change no result.
FREE_KEYS = ("out", "resume", "steps", "trainer", "micro_batch", "compile", "save_every", "sample_every", "log_every",
             "grid", "data.workers", "data.path", "bank.path", "teacher")  # fmt: skip

# Remarks of Lightning about things that are done on purpose here.
NOISE = (
    r".*does not have many workers.*",
    r".*your dataloader is not resumable.*",
    r".*Found \d+ module\(s\) in eval mode at the start of training.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*The `srun` command is available.*",
    r".*Checkpoint directory .* exists and is not empty.*",
)


@dataclass
class Result:
    """What a run leaves behind.

    Attributes:
        network: the moving average, in evaluation mode.
        module: the whole module, for a look inside.
        seconds, images_per_second: of this call (a resumed run counts from where it went on).
        skipped: name ↦ updates that were skipped.
        scalars: the last log line.
    """

    network: nn.Module
    module: StepModule
    seconds: float
    images_per_second: float
    skipped: dict[str, int] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outputs:
    """How a kind of run shows and ships its network.

    Attributes:
        file: name of the finished network in `out`.
        export: (module, path) ↦ write it.
        draw: module ↦ sample images. first: name ↦ images drawn once at the start.
    """

    file: str
    export: Callable[[StepModule, Path], None]
    draw: Callable[[StepModule], Tensor]
    first: dict[str, Callable[[StepModule], Tensor]] = field(default_factory=dict)


def fit(module: StepModule, outputs: Outputs, quiet: bool = False, callbacks: tuple[Callback, ...] = ()) -> Result:
    """Train to `cfg.steps`, from where `cfg.out` stands.

    Raises:
        ValueError: an argument of the trainer is wrong, the folder holds another run, one is at work there, or the run
            was stopped.
    """
    cfg = module.cfg
    out = None if cfg.out is None else Path(cfg.out)
    resume = check_resume(cfg, out)
    with stopping_at_once(), contextlib.nullcontext() if out is None else only_run(out, "out"):
        if out is not None and get_rank() == 0:
            remove_leftovers(out, out / "samples", *out.glob("bank/*"))
        return _fit(module, out, resume, outputs, quiet, callbacks)


def _fit(module, out: Path | None, resume: Path | None, outputs: Outputs, quiet: bool, callbacks) -> Result:
    cfg = module.cfg
    _require_trainer_keys(cfg)
    if resume is not None and (finished := read_checkpoint(resume))["progress"]["done_steps"] == cfg.steps:
        module.load_state_dict(finished["state_dict"])
        module.on_load_checkpoint(finished)
        return Result(module.ema.eval(), module, 0.0, 0.0, dict(module.skipped))
    log = Log(out, cfg.log_every, bar=not quiet)
    own: list[Callback] = [log]
    if out is not None:
        own += [Grids(out, cfg.sample_every, outputs.draw, outputs.first)]
        own += [Checkpoints(out, cfg.save_every, outputs.export, outputs.file)]
    start = time.perf_counter()
    with warnings.catch_warnings():
        for message in NOISE:
            warnings.filterwarnings("ignore", message)
        trainer = build_trainer(cfg, out, [*own, *callbacks])
        if cfg.compile:
            compile_networks(module)
        try:
            trainer.fit(module, ckpt_path=resume)
        except SystemExit as stop:  # SIGTERM, and what Lightning makes of Ctrl-C
            saved = out is not None and (out / LAST).is_file()
            again = f"the same command goes on from {out / LAST}" if saved else "there is no checkpoint to go on from"
            raise UserError(f"stopped by a signal at step {module.done_steps}; {again}") from stop
    if module.done_steps < cfg.steps:
        raise UserError(f"stopped at step {module.done_steps} of {cfg.steps}; the same command goes on")
    module.ema.eval()
    return Result(
        module.ema, module, time.perf_counter() - start, log.images_per_second(module), dict(module.skipped), log.last
    )


# What the trainer's block cannot set: the run itself does.
OWN = ("max_epochs", "log_every_n_steps", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
       "use_distributed_sampler", "num_sanity_val_steps", "callbacks", "plugins", "precision", "logger")  # fmt: skip


def _require_trainer_keys(cfg: RunConfig) -> None:
    """Also where a run is finished, so that a typo is never passed over."""
    choices = [name for name in inspect.signature(pl.Trainer.__init__).parameters if name not in ("self", *OWN)]
    unknown = [name for name in cfg.trainer if name not in choices]
    if unknown:
        raise UserError(f"trainer has no key {unknown[0]!r}; its keys: {', '.join(choices)}")


def build_trainer(cfg: RunConfig, out: Path | None, callbacks: list[Callback]) -> pl.Trainer:
    """Lightning's trainer; keys of `cfg.trainer` are its own arguments."""
    _require_trainer_keys(cfg)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    on_cpu = cfg.trainer.get("accelerator", "auto") == "cpu" or not torch.accelerator.is_available()
    own: dict[str, Any] = {
        "max_epochs": 1, "log_every_n_steps": 1, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "use_distributed_sampler": False, "num_sanity_val_steps": 0,
        "callbacks": callbacks, "plugins": [SealedCheckpointIO()], "precision": PRECISIONS[cfg.precision],
        "logger": False if out is None else TensorBoardLogger(out, name="", version="tensorboard"),
    }  # fmt: skip
    if cfg.precision == "fp16" and on_cpu:  # by its name alone Lightning would take bf16 instead
        own["precision"] = None
        own["plugins"] += [MixedPrecision("16-mixed", "cpu")]
    assert own.keys() == set(OWN)
    arguments: dict[str, Any] = {"devices": local_devices(cfg), "num_nodes": nodes(), **cfg.trainer}
    if arguments.get("strategy", "auto") in ("auto", "ddp"):
        arguments["strategy"] = strategy_for(arguments)
    try:
        return pl.Trainer(**own, **arguments)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error


def local_devices(cfg: RunConfig) -> int | str:
    """Processes of this machine: what torchrun started, else every GPU, else one CPU process."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["LOCAL_WORLD_SIZE"])
    on_gpu = cfg.trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.cuda.device_count() if on_gpu else 1


def nodes() -> int:
    """Machines that torchrun or Slurm started this job on."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"]) // int(os.environ["LOCAL_WORLD_SIZE"])
    return int(os.environ.get("SLURM_NNODES", 1)) if "SLURM_PROCID" in os.environ else 1


def strategy_for(arguments: dict[str, Any]) -> Any:
    """DDP where there are several processes: each update trains one of several networks, so the others are unused."""
    devices = arguments["devices"]
    count = len(devices) if isinstance(devices, (list, tuple)) else devices
    alone = str(count) == "1" and arguments["num_nodes"] == 1
    return "auto" if alone else DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)


def compile_networks(module: StepModule) -> None:
    """torch.compile of what trains; parameter names stay."""
    for network in module.networks():
        network.compile_parts()


def check_resume(cfg: RunConfig, out: Path | None) -> Path | None:
    """The checkpoint to go on from, or None; the folder is made and must be writable.

    Raises:
        UserError: a folder that cannot be written, a damaged checkpoint, or a run with other settings.
    """
    if out is None:
        return None
    require_writable("out", out)
    last = out / LAST
    if not cfg.resume or not last.is_file():
        return None
    checkpoint = read_checkpoint(last)
    done = checkpoint["progress"]["done_steps"]
    if done > cfg.steps:
        raise UserError(f"out={str(out)!r} holds a run of {done} steps, steps={cfg.steps} is less; choose another out")
    usual = flat(dataclasses.asdict(type(cfg)()))  # of keys that are younger than the run
    before, now = ({**usual, **flat(config)} for config in (checkpoint["config"], dataclasses.asdict(cfg)))
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key) and not _free(key)]
    if changed:
        key = changed[0]
        raise UserError(
            f"out={str(out)!r} holds a run with {key}={before.get(key)!r}, now {now.get(key)!r}; choose another out, "
            "or resume=false to begin anew"
        )
    return last


def _free(key: str) -> bool:
    return any(key == free or key.startswith(free + ".") for free in FREE_KEYS)


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as {"a.b": value}; tuples as lists."""
    out = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            out |= flat(value, name + ".")
        else:
            out[name] = list(value) if isinstance(value, tuple) else value
    return out
