"""One run, from configuration to results: what ``launch.py`` does once the host is chosen."""

from __future__ import annotations

import contextlib
import errno
import inspect
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import threestudio
from backends import select
from threestudio.extensions import extension_checks, load_extensions
from threestudio.systems.base import BaseLift3DSystem, BaseSystem
from threestudio.utils.blocks import check_blocks
from threestudio.utils.callbacks import CodeSnapshotCallback, ConfigSnapshotCallback, StepProgressBar
from threestudio.utils.checkpoints import LAST, AtomicCheckpointIO, ResumableCheckpoint, require_resumable
from threestudio.utils.config import load_config, merge_config
from threestudio.utils.errors import UnknownNameError, UserError
from threestudio.utils.guard import LOCK, only_run, stopping_at_once
from threestudio.utils.logging import logger
from threestudio.utils.misc import get_device, get_rank, load_checkpoint, set_device

#: Folder of the project, which holds load/teachers/.
PROJECT = Path(__file__).resolve().parents[2]
TEACHER_KEY = "pretrained_model_name_or_path"

#: Torch's device type -> Lightning's accelerator.
ACCELERATORS = {"cuda": "gpu", "mps": "mps", "cpu": "cpu"}

#: What a mistake in a configuration or a file raises while a run is being set up.
SETUP_ERRORS = (ValueError, TypeError, OSError, KeyError, OmegaConfBaseException, MisconfigurationException)

#: Conditions of the machine, not of the program: shown in one line at any time.
MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)

#: Lightning's remarks about choices that are made on purpose here.
NOISE = (
    r".*does not have many workers.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*your dataloader is not resumable.*",
    r".*IterableDataset.*__len__.*",
    r".*callbacks used to create the checkpoint need to be provided.*",
    r".*predict returned None if it was on purpose.*",
    r".*Found \d+ module\(s\) in eval mode at the start of training.*",
)


class Progress(Callback):
    """How far a run has come, for what is told when it stops.

    stepped: a training step was completed, which ends the set-up. step: steps in all. restoring: between the reading of
    a checkpoint and the completion of the first step after it.
    """

    stepped = restoring = False
    step = 0

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        self.restoring = True

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.stepped, self.restoring, self.step = True, False, trainer.global_step


def run(
    configs: list[str],
    action: str,
    overrides: list[str],
    extension_folders: Iterable[Path],
    cpu: bool = False,
    verbose: bool = False,
    callbacks: Iterable[Callback] = (),
) -> int:
    """Carry out one command line; see :func:`carry_out`.

    Returns:
        0, or 2 after one line on the standard error about what the user can mend.
    """
    try:
        carry_out(configs, action, overrides, extension_folders, cpu, verbose, callbacks)
    except UserError as error:
        if verbose:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def carry_out(
    configs: list[str],
    action: str,
    overrides: list[str],
    extension_folders: Iterable[Path],
    cpu: bool = False,
    verbose: bool = False,
    callbacks: Iterable[Callback] = (),
    turntable: bool = True,
) -> None:
    """Carry out one command line.

    Args:
        configs: YAML files, later ones override earlier ones.
        action: a key of :data:`ACTIONS`.
        overrides: ``key=value`` strings.
        extension_folders: folders whose sub-folders are extensions.
        cpu: leave accelerators alone.
        verbose: log more, and let a user's mistake pass as it was raised.
        callbacks: Lightning callbacks beside those of every run.
        turntable: render it after training.

    Raises:
        UserError: one line about what the user can mend, or about a signal that stopped it.
    """
    _quiet(verbose)
    progress = Progress()
    cfg, new_trial = None, False
    threads = torch.get_num_threads()
    try:
        with stopping_at_once(), contextlib.ExitStack() as hold:
            if cpu:
                set_device("cpu")
            extensions = load_extensions(extension_folders)
            n_gpus = torch.cuda.device_count() if get_device().type == "cuda" else 1
            checks = [*extension_checks(extensions), require_known_names, check_blocks, _find_teachers]
            cfg = load_config(*configs, cli_args=overrides, n_gpus=n_gpus, checks=checks)
            if action == "train":
                hold.enter_context(only_run(cfg.trial_dir, "tag, name, use_timestamp"))
            new_trial = set(os.listdir(cfg.trial_dir)) <= {LOCK}
            if cfg.trainer.get("accelerator") == "cpu":
                set_device("cpu")
            _announce(cfg)
            _carry_out(action, cfg, configs, extensions, [progress, *callbacks], turntable)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if new_trial and not progress.stepped:
            _take_back(cfg)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            error = _stopped(cfg, action, progress)
        elif progress.restoring and not isinstance(error, UserError):
            reason = f"{type(error).__name__}: {_one_line(error, None)}"
            error = UserError(f"cannot go on from {cfg.resume}, is it what this run wrote? ({reason})")
        if verbose or not _users_to_mend(error, progress.stepped):
            raise error
        raise UserError(_one_line(error, None if cfg is None else cfg.trial_dir)) from error
    finally:
        torch.set_num_threads(threads)  # a guidance may have shared them out
    threestudio.info(f"results: {cfg.trial_dir}")


def check(configs: list[str], overrides: list[str], extension_folders: Iterable[Path]) -> None:
    """Refuse a command line as :func:`carry_out` would, without doing or writing anything.

    Raises:
        UserError: one line about what the user can mend.
    """
    _quiet(False)
    try:
        extensions = load_extensions(extension_folders)
        merge_config(*configs, cli_args=overrides, checks=[*extension_checks(extensions), check_blocks])
    except SETUP_ERRORS as error:
        raise UserError(_one_line(error, None)) from error


def _find_teachers(cfg: DictConfig) -> None:
    """A teacher's relative path that the working folder lacks is one of the project's, from wherever this is called."""
    for block in cfg.get("system", {}).values():
        name = block.get(TEACHER_KEY) if isinstance(block, DictConfig) else None
        if name and not os.path.exists(name) and not os.path.isabs(name) and (PROJECT / name).is_dir():
            block[TEACHER_KEY] = str(PROJECT / name)


def _stopped(cfg: DictConfig | None, action: str, progress: Progress) -> UserError:
    """What to tell after SIGTERM or Ctrl-C, which Lightning turns into SystemExit."""
    if cfg is None or action != "train":
        return UserError(f"stopped by a signal; the {action} was not finished")
    last = Path(cfg.trial_dir) / "ckpts" / LAST
    if not last.is_file():
        return UserError(f"stopped by a signal at step {progress.step}; there is no checkpoint to go on from")
    again = f"--config {cfg.trial_dir}/configs/parsed.yaml --train resume={last}"
    return UserError(f"stopped by a signal at step {progress.step}; go on with {again}")


def _carry_out(
    action: str,
    cfg: DictConfig,
    configs: list[str],
    extensions: list[str],
    callbacks: list[Callback],
    turntable: bool = True,
) -> None:
    if action == "export" and not cfg.resume:
        raise UserError("--export needs resume=…/ckpts/last.ckpt: without it an untrained shape would be exported")
    pl.seed_everything(cfg.seed + get_rank(), workers=True, verbose=False)
    if cfg.resume:
        checkpoint = load_checkpoint(cfg.resume, map_location="meta")
        require_resumable(checkpoint, cfg.resume)
    _require(cfg, "data_type", "system_type")
    datamodule = threestudio.find(cfg.data_type)(cfg.data)
    system: BaseSystem = threestudio.find(cfg.system_type)(cfg.system, resumed=bool(cfg.resume))
    system.set_save_dir(os.path.join(cfg.trial_dir, "save"))
    trainer = build_trainer(cfg, configs, training=action == "train", callbacks=callbacks, extensions=extensions)
    if action == "train":
        if not {"max_steps", "max_epochs", "max_time"} & set(cfg.trainer):
            raise UserError("trainer.max_steps is missing: random cameras never end")
        trainer.fit(system, datamodule=datamodule, ckpt_path=cfg.resume)
        if turntable:
            trainer.test(system, datamodule=datamodule)
        return
    if not cfg.resume:
        threestudio.warn("resume is not given: the result is that of untrained modules")
    else:
        system.set_resume_status(checkpoint["epoch"], checkpoint["global_step"])
    ACTIONS[action](trainer, system, datamodule=datamodule, ckpt_path=cfg.resume or None)


#: What a trained checkpoint can be used for, by Lightning's name for it.
ACTIONS = {"validate": pl.Trainer.validate, "test": pl.Trainer.test, "export": pl.Trainer.predict}


def build_trainer(
    cfg: DictConfig, configs: list[str], training: bool, callbacks: list[Callback], extensions: Iterable[str] = ()
) -> pl.Trainer:
    """Lightning's trainer for this machine, with ``cfg.trainer`` on top.

    Raises:
        ValueError: a key of ``trainer`` or ``checkpoint`` that Lightning does not know, or a value that it refuses.
    """
    arguments = _known(pl.Trainer, cfg.trainer, "trainer")
    if training:
        checkpoint = _known(ModelCheckpoint, cfg.checkpoint, "checkpoint")
        callbacks = [
            *callbacks,
            ResumableCheckpoint(os.path.join(cfg.trial_dir, "ckpts"), **checkpoint),
            LearningRateMonitor(logging_interval="step"),
            ConfigSnapshotCallback(configs, cfg, os.path.join(cfg.trial_dir, "configs"), use_version=False),
            CodeSnapshotCallback(
                os.path.join(cfg.trial_dir, "code"), use_version=False, extensions=extensions, config_paths=configs
            ),
        ]
    if arguments.get("enable_progress_bar", True):
        callbacks = [*callbacks, StepProgressBar()]
    device = get_device()
    defaults = {
        "accelerator": ACCELERATORS[device.type],
        "devices": cfg.n_gpus if device.type == "cuda" else 1,
        "logger": _loggers(cfg) if training else False,
        "inference_mode": False,  # normals are gradients of the field, also when rendering a test view
        "enable_model_summary": False,
        "enable_checkpointing": training,
        "plugins": [AtomicCheckpointIO()],
    }
    try:
        return pl.Trainer(callbacks=callbacks, **{**defaults, **arguments})
    except Exception as error:  # Lightning refuses values in a dozen types, and trips over others
        raise UserError(f"trainer: {_one_line(error, None)}") from error


def _loggers(cfg: DictConfig) -> list:
    loggers: list = [TensorBoardLogger(cfg.trial_dir, name="tb_logs"), CSVLogger(cfg.trial_dir, name="csv_logs")]
    wandb = cfg.system.get("loggers", {}).get("wandb", {})
    if wandb.get("enable", False):
        if find_spec("wandb") is None:
            raise UserError("system.loggers.wandb.enable is true, but wandb is not installed: pip install wandb")
        names = {key: wandb.get(key) for key in ("project", "name")}
        loggers.append(pl.loggers.WandbLogger(save_dir=cfg.trial_dir, **names))
    return loggers


def _known(target: type, block: Any, key: str) -> dict:
    """Keyword arguments from a block of the configuration, none of them unknown."""
    values = OmegaConf.to_container(block) if isinstance(block, DictConfig) else dict(block)
    choices = list(inspect.signature(target.__init__).parameters)[1:]
    unknown = [name for name in values if name not in choices]
    if unknown:
        raise UserError(f"{key} has no key {', '.join(unknown)}; its keys: {', '.join(choices)}")
    return values


def _require(cfg: DictConfig, *keys: str) -> None:
    for key in keys:
        if not cfg[key]:
            raise UserError(f"{key} is missing; registered: {', '.join(sorted(threestudio.__modules__))}")


def require_known_names(cfg: DictConfig) -> None:
    """Several names that nobody registered are said at once; a single one is left to the check of its block.

    Raises:
        KeyError: two and more are unknown.
    """
    asked = {"data_type": cfg.data_type, "system_type": cfg.system_type}
    parts = [key for key in BaseLift3DSystem.Config.__dataclass_fields__ if key.endswith("_type")]
    asked |= {f"system.{key}": cfg.system[key] for key in parts if key in cfg.system}
    unknown = []
    for key, name in asked.items():
        composed = [part for part in str(name or "").replace(":", ",").split(",") if part]
        unknown += [f"{key}={part}" for part in composed if part not in threestudio.__modules__]
    if len(unknown) > 1:
        raise UnknownNameError(
            f"unknown names: {', '.join(unknown)}; registered: {', '.join(sorted(threestudio.__modules__))}"
        )


def _announce(cfg: DictConfig) -> None:
    device = get_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    backends = ", ".join(f"{what}: {who}" for what, who in select.describe(device).items())
    threestudio.info(f"host: built-in threestudio {threestudio.__version__}; device: {device} ({name})")
    threestudio.info(f"backends: {backends}")
    blocks = [block for block in cfg.system.values() if isinstance(block, DictConfig)]
    teachers = {block[TEACHER_KEY] for block in blocks if block.get(TEACHER_KEY)}
    threestudio.info(f"teacher: {', '.join(sorted(teachers)) or 'none'}")
    threestudio.info(f"trial: {cfg.trial_dir}")


def _quiet(verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    if verbose:
        return
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)


def _users_to_mend(error: Exception, training: bool) -> bool:
    # by its name: an extension has its own, and must not import the host's
    if any(kind.__name__ == "UserError" for kind in type(error).__mro__):
        return True
    if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
        return True
    return not training and isinstance(error, SETUP_ERRORS)


def _one_line(error: Exception, place: str | None) -> str:
    """The message on one line; of a bare KeyError also that it is one; of the system's errors first the file, or
    ``place`` where they know none."""
    if isinstance(error, OSError) and error.strerror:
        where = place if error.filename is None else error.filename
        return f"{'' if where is None else f'{where}: '}{error.strerror}"
    text = " ".join(str(error).split())
    return f"KeyError: {text}" if type(error) is KeyError else text or type(error).__name__


def _take_back(cfg: DictConfig) -> None:
    """Remove the new trial folder of a run that did not get through its set-up (Lightning has logged there by then)."""
    shutil.rmtree(cfg.trial_dir, ignore_errors=True)
    for folder in (cfg.exp_dir, cfg.exp_root_dir):
        with contextlib.suppress(OSError):  # holds other trials
            os.rmdir(folder)
