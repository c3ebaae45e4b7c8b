"""What a run tells while it goes on: plain objects, given to the function that was handed to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class StageStart:
    """A stage begins, at `step` of `steps` (0 unless it goes on); the last one, ``files``, has no steps."""

    stage: str
    step: int
    steps: int


@dataclass(frozen=True)
class Step:
    """A training step is done. losses: by name, of the last time that they were read (twice a second at most).
    seconds_left: of this stage, None before there is an estimate."""

    stage: str
    step: int
    steps: int
    losses: dict[str, float]
    seconds_left: float | None


@dataclass(frozen=True)
class Preview:
    """Four views side by side, as they are now."""

    stage: str
    step: int
    picture: Image


@dataclass(frozen=True)
class StageDone:
    """A stage is finished. seconds: of all its runs."""

    stage: str
    seconds: float


@dataclass(frozen=True)
class Note:
    """One line that a person should read: unknown words of the prompt, a poor mesh."""

    text: str


@dataclass(frozen=True)
class Done:
    """Everything is written. files: at the top of the run's folder, by name."""

    files: dict[str, Path]


Event = StageStart | Step | Preview | StageDone | Note | Done
Listener = Callable[[Event], None]


class Stopped(Exception):
    """The run was asked to stop, and has: a checkpoint of this very step is written."""


class ListenerError(Exception):
    """Around what a listener raised, on its way through the trainer."""


class StageError(RuntimeError):
    """A stage did not come to its end; the message is one line that a person can act on."""
