"""What one asset is worth: 3D-CLIP, aesthetics, and ground truth where the prompt is of the built-in world."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from threestudio.utils.files import atomic_path
from uni_instruct_guidance.scoring.aesthetic import AestheticScorer
from uni_instruct_guidance.scoring.clip import ClipScorer
from uni_instruct_guidance.scoring.protocols import Protocol, get_protocol, ring, world_framing
from uni_instruct_guidance.scoring.sources import Views as Pictures
from uni_instruct_guidance.scoring.summary import Scorers, summarise

from .. import ROOT
from ..teacher_factory import load_judge
from ..world_metrics import Asked, GroundTruth, Ring, asked_by
from .assets import Asset
from .matrix import Plan

JUDGE = ROOT / "load" / "judge" / "shapes.safetensors"
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
    return GroundTruth(load_judge(JUDGE))


def asked_or_none(prompt: str) -> Asked | None:
    """What the prompt asks of the built-in world; None where it speaks of something else."""
    try:
        return asked_by(prompt)
    except ValueError:
        return None


def score(
    asset: Asset, backbone: str, prompt: str, prompts: tuple[str, ...], plan: Plan, picture: Path
) -> dict[str, float]:
    """All scores of an asset; a strip of four views goes to `picture`.

    Args:
        backbone: "nerf" or "mesh"; only a mesh has a surface to measure.
        prompts: the comparison's, among which CLIP must find the right one.
    """
    truth, asked, protocol = ground_truth(), asked_or_none(prompt), get_protocol(plan.protocol)
    scorers = make_scorers(plan.clip, plan.clip_pretrained, plan.aesthetic, prompts)
    pictures = Pictures(picture, asset.render(protocol).rgb8, "checkpoint", protocol.label)
    scores = summarise(pictures, prompt, scorers).numbers
    views = asset.render(ring_protocol(truth.ring))
    if asked is not None:
        scores |= truth.of_views(asked, views.rgb, views.opacity)
        if backbone == "mesh":
            scores |= truth.of_mesh(asked, *asset.surface())
    shown = [round(azimuth / 360 * truth.ring.count) for azimuth in SHOWN]
    with atomic_path(picture) as temporary:
        Image.fromarray(np.concatenate(list(views.rgb8[shown]), axis=1)).save(temporary, quality=88)
    return scores
