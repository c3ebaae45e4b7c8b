"""Words that tell a teacher where the camera stands, finer than threestudio's four view words.

"a red mug, front view" becomes "a red mug, front view, azimuth 015, elevation 30": text, so that a stock
Stable-Diffusion-format model takes it. A teacher must have been trained on these words; `load/teachers/shapes-128` was.
Degrees; azimuth 0 sees the front and grows counter-clockwise seen from above, as in threestudio.
"""

from __future__ import annotations

import re

from jaxtyping import Float, Int
from torch import Tensor

#: Degrees from one word to the next, of azimuth and of elevation.
STEP = 15
AZIMUTHS = tuple(range(0, 360, STEP))
#: Whatever lies below the lowest bin is told as the lowest.
ELEVATIONS = tuple(range(0, 91, STEP))

_VIEW = re.compile(r"\b(front|side|back|overhead) view\b")


def camera_bins(
    azimuth: Float[Tensor, "n"], elevation: Float[Tensor, "n"]
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
    """Index of the nearest word of `AZIMUTHS` and of `ELEVATIONS`."""
    around = (azimuth / STEP).round().long() % len(AZIMUTHS)
    above = (elevation / STEP).round().long().clamp(0, len(ELEVATIONS) - 1)
    return around, above


def with_camera(text: str, azimuth_bin: int, elevation_bin: int) -> str:
    """The prompt with the camera's words behind its view word, or at its end where it has none."""
    words = f", azimuth {AZIMUTHS[azimuth_bin]:03d}, elevation {ELEVATIONS[elevation_bin]}"
    found = _VIEW.search(text)
    end = found.end() if found else len(text)
    return text[:end] + words + text[end:]
