"""What the one-step trainer asks of a family of teachers: how each is read, asked, drawn and shipped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import UserError
from ...teachers.contract import Conditions, DiffusionTeacher
from ...teachers.discriminator import DiscriminatorHead
from ...teachers.sampling import Start
from ..config import DistillConfig
from ..data import ImageData

Reward = Callable[[Tensor, list[str]], Tensor]


class Family(ABC):
    """One family under one configuration.

    Attributes:
        text: whether conditions are prompts: then guidance, LoRA and rewards by name are at hand.
        file: what a finished student is called in `out`.
    """

    text: bool = False
    file: str

    def __init__(self, cfg: DistillConfig) -> None:
        self.cfg = cfg

    @abstractmethod
    def teacher(self) -> DiffusionTeacher:
        """Read from what the configuration names."""

    @abstractmethod
    def conditions(self, teacher: DiffusionTeacher, data: ImageData | None) -> Conditions: ...

    @abstractmethod
    def check_data(self, data: ImageData, teacher: DiffusionTeacher) -> None:
        """Refuse real images that do not fit the teacher."""

    @abstractmethod
    def real(self, images: Tensor, teacher: DiffusionTeacher, generator: torch.Generator) -> Tensor:
        """Real images as the loader gives them ↦ samples x_0."""

    @abstractmethod
    def start(self, teacher: DiffusionTeacher) -> Start:
        """Where the generator enters the noise process."""

    @abstractmethod
    def student(self, teacher: DiffusionTeacher, begin: nn.Module | None = None) -> nn.Module:
        """A `Denoiser` that starts as the teacher, or as `begin`."""

    @abstractmethod
    def fake(self, teacher: DiffusionTeacher, kind: str, begin: nn.Module | None = None) -> nn.Module:
        """The fake score, likewise."""

    @abstractmethod
    def head(self, fake: nn.Module) -> tuple[DiscriminatorHead, list[str]]:
        """The discriminator's head, and the features it reads."""

    @abstractmethod
    def begin(self, path: Path, teacher: DiffusionTeacher) -> tuple[nn.Module, nn.Module | None]:
        """Student and fake score of `start:`."""

    @abstractmethod
    def export(self, module, path: Path) -> None:
        """Ship the averaged student, whole or not at all."""

    def reward(self) -> Reward | None:
        """The reward that the configuration names, of samples x_0 and what they were asked for."""
        return None


def from_checkpoint(path: Path, teacher: DiffusionTeacher, check: Callable[[dict[str, Any]], None]):
    """Averaged student and fake score of another run's last.ckpt, as learners of this teacher."""
    from ..callbacks import read_checkpoint

    checkpoint = read_checkpoint(path)
    check(checkpoint["config"])
    found = []
    for prefix in ("ema.", "fake."):
        tensors = {n.removeprefix(prefix): t for n, t in checkpoint["state_dict"].items() if n.startswith(prefix)}
        network = teacher.learner("lora" if any("lora_" in name for name in tensors) else "full")
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(f"start={str(path)!r} holds no {prefix[:-1]} of the teacher's architecture") from error
        found.append(network)
    return tuple(found)
