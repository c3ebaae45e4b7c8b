"""From threestudio's prompt output and cameras to what the networks are told."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..teachers.stable_diffusion.networks import Condition

#: threestudio's directions; they come first in every prompt output.
STOCK_DIRECTIONS = ("side", "front", "back", "overhead")


def condition_of(
    prompt_utils,
    cameras: dict,
    *,
    view_dependent: bool,
    fake_view_dependent: bool,
    camera: Tensor | None,
    view: Tensor | None = None,
    perp_neg: bool = True,
) -> Condition:
    """Texts for teacher and fake score at these cameras; threestudio puts the conditional half first.

    Args:
        camera: what the fake score is told of the camera. view: what a multi-view teacher is told.
        perp_neg: use the perpendicular negative prompts where the prompts have them.
    """

    def texts(views: bool) -> tuple[Tensor, Tensor]:
        both = prompt_utils.get_text_embeddings(
            cameras["elevation"], cameras["azimuth"], cameras["camera_distances"], views
        )
        return both.chunk(2)

    text, uncond = texts(view_dependent)
    fake_text, fake_uncond = (text, uncond) if fake_view_dependent == view_dependent else texts(fake_view_dependent)
    if not (perp_neg and prompt_utils.use_perp_neg):
        return Condition(text, uncond, fake_text, fake_uncond, camera, view=view)
    rows, weights = prompt_utils.get_text_embeddings_perp_neg(
        cameras["elevation"], cameras["azimuth"], cameras["camera_distances"], view_dependent
    )
    batch = len(weights)
    text, uncond, negatives = rows.split([batch, batch, 2 * batch])
    negatives = negatives.unflatten(0, (batch, 2))
    return Condition(text, uncond, fake_text, fake_uncond, camera, negatives, weights, view)


def joined(first: Condition, second: Condition) -> Condition:
    """Both one after the other: texts and cameras. Negative prompts, which guide a teacher's answer, are left out."""
    parts = ("text", "uncond", "fake_text", "fake_uncond", "camera", "view")
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in parts}
    return Condition(**{name: None if pair[0] is None else torch.cat(pair) for name, pair in pairs.items()})


def without_camera(condition: Condition) -> Condition:
    """The same, nobody told where the camera stands: all zeros."""
    told = {name: getattr(condition, name) for name in ("camera", "view")}
    return replace(condition, **{name: torch.zeros_like(x) for name, x in told.items() if x is not None})


def direction_texts(prompt_utils, view_dependent: bool) -> Float[Tensor, "2*P L D"]:
    """Embeddings of every prompt a view can have (one if prompts ignore the view), conditional half first."""
    if not view_dependent:
        return torch.cat([prompt_utils.text_embeddings, prompt_utils.uncond_text_embeddings])
    return torch.cat([prompt_utils.text_embeddings_vd, prompt_utils.uncond_text_embeddings_vd])


def direction_indices(
    prompt_utils, cameras: dict, view_dependent: bool, *, words_only: bool = False
) -> Int[Tensor, "B"]:
    """Row of `direction_texts` for each camera; of several directions that apply, the last wins.

    words_only: only threestudio's four, also where the prompt processor knows finer ones (see `camera_prompts`).
    """
    elevation, azimuth, distance = (cameras[key] for key in ("elevation", "azimuth", "camera_distances"))
    index = torch.zeros(elevation.shape, dtype=torch.long, device=elevation.device)
    if view_dependent:
        for direction in prompt_utils.directions[: len(STOCK_DIRECTIONS) if words_only else None]:
            index[direction.condition(elevation, azimuth, distance)] = prompt_utils.direction2idx[direction.name]
    return index
