"""Base classes of everything a configuration can name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from threestudio.utils.config import parse_structured
from threestudio.utils.errors import UserError
from threestudio.utils.misc import get_device, load_module_weights


class Configurable:
    """Has a nested dataclass ``Config`` and a checked ``cfg``."""

    @dataclass
    class Config:
        """Fields with defaults; a subclass's ``Config`` inherits its parent's."""

    def __init__(self, cfg: dict | DictConfig | None = None) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)


class Updateable:
    """Follows the training step: its own :meth:`update_step` runs after those of its attributes, before each batch."""

    def do_update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Update the attributes, then this object.

        Args:
            on_load_weights: called once after weights were loaded, outside training.
        """
        for child in self._updateable_children():
            child.do_update_step(epoch, global_step, on_load_weights=on_load_weights)
        self.update_step(epoch, global_step, on_load_weights=on_load_weights)

    def do_update_step_end(self, epoch: int, global_step: int) -> None:
        """Same after each batch."""
        for child in self._updateable_children():
            child.do_update_step_end(epoch, global_step)
        self.update_step_end(epoch, global_step)

    def _updateable_children(self) -> Iterator[Updateable]:
        # Owned attributes only: a property would reach shared modules again, and update them twice a step.
        owned = {**vars(self), **vars(self).get("_modules", {})}
        seen: set[int] = set()
        for name, value in owned.items():
            if not name.startswith("_") and isinstance(value, Updateable) and id(value) not in seen:
                seen.add(id(value))
                yield value

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """For subclasses: follow schedules."""

    def update_step_end(self, epoch: int, global_step: int) -> None:
        """For subclasses: after the batch."""


def update_if_possible(module: Any, epoch: int, global_step: int) -> None:
    """:meth:`Updateable.do_update_step` if the object has one."""
    if isinstance(module, Updateable):
        module.do_update_step(epoch, global_step)


def update_end_if_possible(module: Any, epoch: int, global_step: int) -> None:
    """:meth:`Updateable.do_update_step_end` if the object has one."""
    if isinstance(module, Updateable):
        module.do_update_step_end(epoch, global_step)


class BaseObject(Updateable):
    """Configured object without parameters: prompt processor, exporter, estimator of something."""

    @dataclass
    class Config:
        """Fields with defaults; a subclass's ``Config`` inherits its parent's."""

    cfg: Config

    def __init__(self, cfg: dict | DictConfig | None = None, *args, **kwargs) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self.device = get_device()
        self.configure(*args, **kwargs)

    def configure(self, *args, **kwargs) -> None:
        """For subclasses: build what ``cfg`` asks for."""


class BaseModule(nn.Module, Updateable):
    """Configured network.

    ``weights``, if given, is ``"checkpoint:module"``: after :meth:`configure`, that module's weights are loaded from
    the checkpoint, and the step they were saved at is made known through ``update_step(..., on_load_weights=True)``.
    """

    @dataclass
    class Config:
        """Fields with defaults; a subclass's ``Config`` inherits its parent's."""

        weights: str | None = None

    cfg: Config

    def __init__(self, cfg: dict | DictConfig | None = None, *args, **kwargs) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self.device = get_device()
        # tells where the module is, even without parameters
        self.register_buffer("_dummy", torch.zeros(0), persistent=False)
        self.configure(*args, **kwargs)
        if self.cfg.weights is not None:
            path, colon, module_name = self.cfg.weights.rpartition(":")
            if not colon or not path or not module_name:
                raise UserError(
                    f"weights={self.cfg.weights}: write checkpoint:module, for example a/last.ckpt:geometry"
                )
            weights, epoch, global_step = load_module_weights(path, module_name=module_name)
            self.load_state_dict(weights)
            self.do_update_step(epoch, global_step, on_load_weights=True)

    def configure(self, *args, **kwargs) -> None:
        """For subclasses: build what ``cfg`` asks for."""
