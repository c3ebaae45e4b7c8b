"""Optimisers and learning-rate schedules from configurations."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from threestudio.utils.errors import UserError
from threestudio.utils.logging import debug, warn

INTERVALS = ("epoch", "step")


def _subclasses_in(module: Any, base: type) -> dict[str, type]:
    members = inspect.getmembers(module, inspect.isclass)
    return {name: cls for name, cls in members if issubclass(cls, base) and cls is not base}


OPTIMIZERS = _subclasses_in(torch.optim, torch.optim.Optimizer)
SCHEDULERS = _subclasses_in(lr_scheduler, lr_scheduler.LRScheduler)


def get_parameters(model: nn.Module, name: str) -> Iterable[nn.Parameter]:
    """Parameters of the module or parameter at the dotted path ``name``.

    Raises:
        ValueError: ``model`` has nothing trainable there (the message lists what it has).
    """
    target: Any = model
    for part in name.split("."):
        target = getattr(target, part, None)
    if isinstance(target, nn.Parameter):
        return [target]
    if isinstance(target, nn.Module):
        return target.parameters()
    choices = [child for child, module in model.named_children() if any(True for _ in module.parameters())]
    raise UserError(f"system.optimizer.params.{name}: no such module; modules with parameters: {', '.join(choices)}")


def _arguments(target: type, args: Any, key: str) -> dict:
    """Keyword arguments, checked against what the class takes."""
    args = dict(args or {})
    choices = list(inspect.signature(target).parameters)[1:]
    unknown = [name for name in args if name not in choices]
    if unknown:
        raise UserError(
            f"{key} has no argument {', '.join(unknown)}; arguments of {target.__name__}: {', '.join(choices)}"
        )
    return args


def parse_optimizer(config: Any, model: nn.Module) -> torch.optim.Optimizer:
    """Optimiser of ``torch.optim`` by name.

    Args:
        config: ``name``, ``args`` of the optimiser, and optionally ``params``: one group per module of ``model``
            (a dotted path), with its own arguments. Without it, all parameters form one group.

    Raises:
        ValueError: an unknown optimiser, argument or module.
    """
    if config.get("name") not in OPTIMIZERS:
        raise UserError(f"unknown system.optimizer.name '{config.get('name')}'; choices: {', '.join(OPTIMIZERS)}")
    cls = OPTIMIZERS[config["name"]]
    args = _arguments(cls, config.get("args"), "system.optimizer.args")
    groups = config.get("params")
    if groups is None:
        return cls(model.parameters(), **args)
    params = []
    for name, group_args in groups.items():
        overrides = _arguments(cls, group_args, f"system.optimizer.params.{name}")
        params.append({"params": list(get_parameters(model, name)), "name": name, **overrides})
        debug(f"optimiser group {name}: {overrides}")
    covered = {id(p) for group in params for p in group["params"]}
    left_out = {n.partition(".")[0] for n, p in model.named_parameters() if p.requires_grad and id(p) not in covered}
    if left_out:
        warn(f"not trained, because system.optimizer.params lacks them: {', '.join(sorted(left_out))}")
    return cls(params, **args)


def parse_scheduler_to_instance(config: Any, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    """One schedule of ``torch.optim.lr_scheduler``; SequentialLR and ChainedScheduler take further ``schedulers``."""
    name = config.get("name")
    if name not in SCHEDULERS:
        raise UserError(f"unknown system.scheduler.name '{name}'; choices: {', '.join(SCHEDULERS)}")
    if "schedulers" in config:
        parts = [parse_scheduler_to_instance(part, optimizer) for part in config["schedulers"]]
        if name == "ChainedScheduler":
            return lr_scheduler.ChainedScheduler(parts)
        return SCHEDULERS[name](optimizer, parts, milestones=list(config["milestones"]))
    return SCHEDULERS[name](optimizer, **_arguments(SCHEDULERS[name], config.get("args"), "system.scheduler.args"))


def parse_scheduler(config: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Lightning's description of a schedule: the instance, and whether it moves per ``epoch`` (default) or ``step``."""
    interval = config.get("interval", "epoch")
    if interval not in INTERVALS:
        raise UserError(f"unknown system.scheduler.interval '{interval}'; choices: {', '.join(INTERVALS)}")
    return {"scheduler": parse_scheduler_to_instance(config, optimizer), "interval": interval}
