"""Schedules, devices, ranks and loading of weights."""

from __future__ import annotations

import gc
import math
import os
import re
from collections.abc import Iterable
from typing import Any

import torch
from packaging import version
from torch import Tensor, nn

from threestudio.utils.config import C_max, config_to_primitive, schedule_points
from threestudio.utils.errors import DegenerateScheduleError, UserError
from threestudio.utils.sealed import load_sealed

__all__ = [
    "C",
    "C_max",
    "barrier",
    "broadcast",
    "cleanup",
    "config_to_primitive",
    "enable_gradient",
    "finish_with_cleanup",
    "get_device",
    "get_rank",
    "load_checkpoint",
    "load_module_weights",
    "parse_version",
    "require_weights",
    "set_device",
]


def C(value: Any, epoch: int, global_step: int, interpolation: str = "linear") -> float:
    """Value of a scalar or a schedule at this moment.

    Args:
        value: a number, or an OmegaConf list ``[start_step, start, end, end_step]`` (3 entries: start_step is 0), with
            more ``value, step`` pairs for further pieces. A float end step counts epochs, an int one global steps;
            which piece holds is always decided by the global step, and a piece begins exactly at its step.
        interpolation: ``linear``, or ``exp`` (linear in the logarithm).

    Raises:
        ValueError, TypeError, AssertionError: see :func:`threestudio.utils.config.schedule_points`.
        ZeroDivisionError: the schedule starts and ends at the same step.
    """
    if isinstance(value, (int, float)):
        return value
    points = schedule_points(value)
    while len(points) > 4 and global_step >= points[3]:
        points = [points[3], points[2], *points[4:]]
    start_step, start, end, end_step = points[:4]
    if start_step == end_step:
        raise DegenerateScheduleError(
            f"a schedule cannot start and end at step {end_step}: {config_to_primitive(value)}"
        )
    now = global_step if isinstance(end_step, int) else epoch
    progress = max(min(1.0, (now - start_step) / (end_step - start_step)), 0.0)
    if interpolation == "linear":
        return start + (end - start) * progress
    if interpolation == "exp":
        return math.exp(math.log(start) * (1 - progress) + math.log(end) * progress)
    raise UserError(f"unknown interpolation '{interpolation}' of a schedule; choices: linear, exp")


def parse_version(ver: str) -> version.Version:
    """Comparable form of a version string."""
    return version.parse(ver)


def get_rank() -> int:
    """Index of this process among those of one run; 0 if it is alone."""
    for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        if os.environ.get(key):
            return int(os.environ[key])
    return 0


_device: torch.device | None = None


def set_device(device: str | torch.device | None) -> None:
    """Fix the device that :func:`get_device` answers; None: back to the automatic choice.

    Raises:
        ValueError: no such device on this machine.
    """
    global _device
    try:
        chosen = None if device is None else torch.device(device)
        torch.empty(0, device=chosen or "cpu")
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has no one type for it
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"device={str(device)!r} cannot be used here ({reason}); cpu always can") from error
    _device = chosen


def get_device() -> torch.device:
    """Device of this process: what :func:`set_device` fixed, else CUDA, else MPS, else CPU."""
    if _device is not None:
        return _device
    if torch.cuda.is_available():
        return torch.device("cuda", get_rank() % torch.cuda.device_count())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def load_checkpoint(path: str | os.PathLike, map_location: Any = "cpu") -> dict:
    """Content of a checkpoint; tensors and plain values only, nothing in it is executed.

    Raises:
        ValueError: missing, damaged or foreign file (the message names it).
    """
    checkpoint = load_sealed(path, map_location)
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} is no checkpoint of a run: it holds a {type(checkpoint).__name__}, not a dict")
    return checkpoint


def load_module_weights(
    path: str | os.PathLike,
    module_name: str | None = None,
    ignore_modules: Iterable[str] | None = None,
    map_location: Any = "cpu",
) -> tuple[dict[str, Tensor], int, int]:
    """Weights in a checkpoint, with the epoch and the global step they were saved at.

    Args:
        module_name: take only this module's weights, without the prefix.
        ignore_modules: leave out these modules' weights. Not together with ``module_name``.
    """
    if module_name is not None and ignore_modules is not None:
        raise UserError("module_name and ignore_modules exclude each other")
    checkpoint = load_checkpoint(path, map_location)
    if "state_dict" not in checkpoint:
        raise UserError(f"{path} holds no state_dict; its entries: {', '.join(map(str, checkpoint))}")
    weights = checkpoint["state_dict"]
    require_weights(weights, path)
    if ignore_modules is not None:
        ignored = tuple(f"{name}." for name in ignore_modules)
        weights = {key: value for key, value in weights.items() if not key.startswith(ignored)}
    if module_name is not None:
        modules = sorted({key.partition(".")[0] for key in weights})
        prefix = re.compile(rf"^{re.escape(module_name)}\.(.+)$")
        weights = {m.group(1): value for key, value in weights.items() if (m := prefix.match(key))}
        if not weights:
            raise UserError(f"{path} has no weights of module '{module_name}'; its modules: {', '.join(modules)}")
    return weights, checkpoint.get("epoch", 0), checkpoint.get("global_step", 0)


def require_weights(weights: Any, path: str | os.PathLike) -> None:
    """Refuse a ``state_dict`` that does not map names to tensors."""
    if not isinstance(weights, dict) or not all(isinstance(k, str) and torch.is_tensor(v) for k, v in weights.items()):
        raise UserError(f"{path} is no checkpoint of a run: its state_dict does not map names to tensors")


def cleanup() -> None:
    """Free memory that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def finish_with_cleanup(func):
    """Decorator: :func:`cleanup` after the call."""

    def wrapper(*args, **kwargs):
        out = func(*args, **kwargs)
        cleanup()
        return out

    return wrapper


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def barrier() -> None:
    """Wait for the other processes, if there are any."""
    if _distributed():
        torch.distributed.barrier()


def broadcast(tensor: Tensor, src: int = 0) -> Tensor:
    """``tensor`` of process ``src``, in every process."""
    if _distributed():
        torch.distributed.broadcast(tensor, src=src)
    return tensor


def enable_gradient(model: nn.Module, enabled: bool = True) -> None:
    """Turn gradients of all parameters on or off."""
    for parameter in model.parameters():
        parameter.requires_grad_(enabled)
