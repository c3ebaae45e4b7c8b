"""Which words describe a view: directions from elevation and azimuth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor


def shift_azimuth_deg(azimuth: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Same azimuth in [-180, 180)."""
    return (azimuth + 180) % 360 - 180


@dataclass
class DirectionConfig:
    """One direction: its name, its prompt from the plain prompt, and when it applies (degrees)."""

    name: str
    prompt: Callable[[str], str]
    negative_prompt: Callable[[str], str]
    condition: Callable[[Float[Tensor, "B"], Float[Tensor, "B"], Float[Tensor, "B"]], Bool[Tensor, "B"]]


def view_directions(cfg: Any) -> list[DirectionConfig]:
    """Side, front, back and overhead; where several apply, the last one counts, and the threshold itself is outside."""

    def is_front(elevation: Tensor, azimuth: Tensor, distance: Tensor) -> Tensor:
        return shift_azimuth_deg(azimuth).abs() < cfg.front_threshold

    def is_back(elevation: Tensor, azimuth: Tensor, distance: Tensor) -> Tensor:
        return shift_azimuth_deg(azimuth).abs() > 180 - cfg.back_threshold

    conditions = {
        "side": lambda elevation, azimuth, distance: azimuth == azimuth,  # everywhere
        "front": is_front,
        "back": is_back,
        "overhead": lambda elevation, azimuth, distance: elevation > cfg.overhead_threshold,
    }
    words = {"back": "backside"} if cfg.view_dependent_prompt_front else {}

    def describe(name: str) -> Callable[[str], str]:
        view = f"{words.get(name, name)} view"
        if cfg.view_dependent_prompt_front:
            return lambda prompt: f"{view} of {prompt}"
        return lambda prompt: f"{prompt}, {view}"

    return [
        DirectionConfig(name, describe(name), lambda prompt: prompt, condition)
        for name, condition in conditions.items()
    ]
