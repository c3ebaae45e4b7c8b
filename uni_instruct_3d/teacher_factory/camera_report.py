"""How well a teacher obeys the camera's words: what it draws, and the azimuth that the judge sees there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from uni_instruct_guidance.core.camera_words import AZIMUTHS, ELEVATIONS, with_camera

from .judge import AZIMUTH, Judge, azimuth_error
from .presets import ReportConfig

#: Every second azimuth word, from a little above: where a class's sides differ most.
ASKED_AZIMUTHS, ASKED_ELEVATION = AZIMUTHS[::2], 15


@dataclass(frozen=True)
class AskedCamera:
    """One thing to draw: its prompt with the camera's words, the class's name and the azimuth asked for."""

    prompt: str
    class_name: str
    azimuth_deg: float


def cameras(world) -> list[AskedCamera]:
    """Every class whose views differ from all asked azimuths, colours in turn."""
    asked = []
    for c, name in enumerate(world.VIEW_CLASSES):
        for k, azimuth in enumerate(ASKED_AZIMUTHS):
            text = world.caption(name, world.COLORS[(c + k) % len(world.COLORS)], world.PATTERNS[0], view(azimuth))
            words = with_camera(text, AZIMUTHS.index(azimuth), ELEVATIONS.index(ASKED_ELEVATION))
            asked.append(AskedCamera(words, name, float(azimuth)))
    return asked


def view(azimuth_deg: float) -> str:
    """threestudio's view word of a camera that is not overhead."""
    from_front = abs((azimuth_deg + 180.0) % 360.0 - 180.0)
    return "front" if from_front < 45.0 else "back" if from_front > 135.0 else "side"


def camera_quality(
    pipeline: StableDiffusionPipeline, judge: Judge, world, config: ReportConfig, seed: int = 0
) -> dict[str, float | int]:
    """Degrees between asked and seen azimuth: median, share within 22.5° (the word itself or its neighbour), and share
    beyond 90° (the wrong side).

    Raises ValueError if the judge never learned azimuths.
    """
    from .report import draw

    if AZIMUTH not in judge.names:
        raise ValueError("camera words: this judge names no azimuths; take one made by the preset cpu128")
    asked = cameras(world)
    images = draw(pipeline, [row.prompt for row in asked], config, seed)
    truth = torch.tensor([row.azimuth_deg for row in asked])
    seen = [judge(images[i : i + 256])[AZIMUTH].cpu() for i in range(0, len(images), 256)]
    off = azimuth_error(torch.cat(seen), truth).numpy()
    return {
        "images": len(asked), "median": float(np.median(off)), "within_22": float((off <= 22.5).mean()),
        "beyond_90": float((off > 90.0).mean()),
    }  # fmt: skip
