"""What one asset is worth: 3D-CLIP, aesthetics, and ground truth where the prompt is of the built-in world."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from threestudio.utils.files import atomic_path
from uni_instruct_guidance.scoring.aesthetic import AestheticScorer
from uni_instruct_guidance.scoring.clip import ClipScorer
from uni_instruct_guidance.scoring.protocols import Protocol, get_protocol, ring, world_framing
from uni_instruct_guidance.scoring.sources import Views as Pictures
from uni_instruct_guidance.scoring.summary import Scorers, summarise

from ..pipeline.checks import SOLID, half_transparent, of_surface
from ..teacher_factory.judge import built_in_judge
from ..world_metrics import Asked, GroundTruth, Ring, asked_by, silhouette_iou
from .assets import Asset
from .matrix import Plan
from .rungs import RUNGS

#: Behind the objects when the judge looks: within the greys of the world's own renders.
GREY = (0.9, 0.9, 0.9)
#: Azimuths of the pictures on the page, degrees.
SHOWN = (0, 90, 180, 330)


def ring_protocol(cameras: Ring) -> Protocol:
    """The ground-truth ring as cameras that renderers take."""
    position, up = ring(cameras.count, cameras.elevation_deg, cameras.distance)
    fovy = torch.full((cameras.count,), cameras.fovy_deg)
    return Protocol("world-ring", 1, position, up, fovy, cameras.size, GREY, world_framing, "ground truth")


@lru_cache(maxsize=1)
def make_scorers(clip: str, pretrained: str | None, aesthetic: str | None, prompts: tuple[str, ...]) -> Scorers:
    """One per process.

    Raises:
        ValueError: weights that cannot be used.
    """
    scorer = ClipScorer(clip, pretrained)
    return Scorers(scorer, AestheticScorer(aesthetic, scorer) if aesthetic else None, prompts)


@lru_cache(maxsize=1)
def ground_truth() -> GroundTruth:
    """One per process."""
    return GroundTruth(built_in_judge())


def asked_or_none(prompt: str) -> Asked | None:
    """What the prompt asks of the built-in world; None where it speaks of something else."""
    try:
        return asked_by(prompt)
    except ValueError:
        return None


def solidity(opacity: Float[np.ndarray, "n h w"], kept: Path, is_mesh: bool) -> dict[str, float]:
    """What a person sees at once and no class accuracy tells.

    ``half_transparent``: see :mod:`..pipeline.checks`. ``agreement``: of a mesh's silhouettes with those of its NeRF
    (IoU), which an earlier call has left in the file ``kept``.
    """
    solid, scores = opacity >= SOLID, {"half_transparent": half_transparent(opacity)}
    if not is_mesh:
        with atomic_path(kept) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, solid=solid)
    elif kept.is_file():
        with np.load(kept, allow_pickle=False) as file:
            if file["solid"].shape == solid.shape:
                scores["agreement"] = silhouette_iou(solid, file["solid"])
    return scores


def score(
    asset: Asset, backbone: str, prompt: str, prompts: tuple[str, ...], plan: Plan, picture: Path
) -> dict[str, float]:
    """All scores of an asset; a strip of four views goes to `picture`.

    Args:
        backbone: key of `RUNGS`; only a mesh has a surface to measure.
        prompts: the comparison's, among which CLIP must find the right one.
    """
    truth, asked, protocol = ground_truth(), asked_or_none(prompt), get_protocol(plan.protocol)
    scorers = make_scorers(plan.clip, plan.clip_pretrained, plan.aesthetic, prompts)
    pictures = Pictures(picture, asset.render(protocol).rgb8, "checkpoint", protocol.label)
    scores = summarise(pictures, prompt, scorers).numbers
    views = asset.render(ring_protocol(truth.ring))
    surface = asset.surface() if RUNGS[backbone].is_mesh else None
    if asked is not None:
        scores |= truth.of_views(asked, views.rgb, views.opacity)
        if surface is not None:
            scores |= truth.of_mesh(asked, *surface)
    scores |= solidity(views.opacity, picture.with_name("nerf_masks.npz"), surface is not None)
    if surface is not None:
        scores["components"] = of_surface(*surface)["components"]
    shown = [round(azimuth / 360 * truth.ring.count) for azimuth in SHOWN]
    with atomic_path(picture) as temporary:
        Image.fromarray(np.concatenate(list(views.rgb8[shown]), axis=1)).save(temporary, quality=88)
    return scores
