"""Scores of human preference from packages that bring their own weights: used where they are installed, else refused.

T³Bench's quality (arXiv 2310.02977) is a summary of ImageReward over the protocol `t3bench-162x5`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..core.errors import choose
from .protocols import icosphere, neighbours


@dataclass(frozen=True)
class Preference:
    """A package and how to ask it. score: (module, pictures, prompt) → one number per picture."""

    name: str
    module: str
    install: str
    score: Callable[[object, Sequence[Image.Image], str], list[float]]


def _image_reward(module, pictures: Sequence[Image.Image], prompt: str) -> list[float]:
    model = module.load("ImageReward-v1.0")
    return [float(model.score(prompt, picture)) for picture in pictures]


def _hpsv2(module, pictures: Sequence[Image.Image], prompt: str) -> list[float]:
    return [float(value) for value in module.score(list(pictures), prompt, hps_version="v2.1")]


_TABLE = (
    Preference("imagereward", "ImageReward", "image-reward", _image_reward),
    Preference("hpsv2", "hpsv2", "hpsv2", _hpsv2),
)
PREFERENCES: dict[str, Preference] = {row.name: row for row in _TABLE}


def require_preference(name: str) -> Preference:
    """The row of that name, its package being installed.

    Raises:
        ValueError: unknown name, or the package is missing (named).
    """
    row = choose("preference score", name, PREFERENCES)
    if importlib.util.find_spec(row.module) is None:
        raise ValueError(f"preference score {name!r} needs the package {row.install}: pip install {row.install}")
    return row


def preference_scores(name: str, pictures: Sequence[np.ndarray], prompt: str) -> Float[Tensor, "N"]:
    """Scores of 8-bit pictures for a prompt, in the package's own units.

    Raises:
        ValueError: see `require_preference`; or the package cannot be imported here.
    """
    row = require_preference(name)
    try:
        module = importlib.import_module(row.module)
    except (ImportError, AttributeError) as error:  # made for other versions of what it imports
        raise ValueError(f"preference score {name!r}: {row.install} cannot be imported: {error}") from error
    return torch.tensor(row.score(module, [Image.fromarray(picture) for picture in pictures], prompt))


def t3bench_quality(reward: Float[Tensor, "n"]) -> float:
    """T³Bench's quality from ImageReward of the 162 × 5 pictures of `t3bench-162x5`, in their order.

    Per direction the best of the five fields of view; three rounds of averaging each direction with its neighbours on
    the icosphere; the best direction; times 20, plus 50.
    """
    directions = icosphere(2)
    near = neighbours(directions).float() + torch.eye(len(directions))
    value = reward.reshape(len(directions), -1).max(1).values
    for _ in range(3):
        value = near @ value / near.sum(1)
    return float(20 * value.max() + 50)
