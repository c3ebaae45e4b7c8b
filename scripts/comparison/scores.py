"""What one trained stage is worth: 3D-CLIP, aesthetics, and ground truth where the prompt is of the built-in world."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from teacher_factory import load_judge
from text_to_3d import ROOT
from world_metrics import Asked, GroundTruth, Ring, asked_by

from threestudio.utils.files import atomic_path
from uni_instruct_guidance.scoring.clip import ClipScorer, clip_numbers, first_in_list
from uni_instruct_guidance.scoring.protocols import Protocol, get_protocol, ring, world_framing

from .assets import Views, render, surface
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
def clip_scorer(model: str, pretrained: str | None) -> ClipScorer:
    """One per process."""
    return ClipScorer(model, pretrained)


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


def score(trial: Path, backbone: str, prompt: str, prompts: list[str], plan: Plan, picture: Path) -> dict[str, float]:
    """All scores of a finished stage; a strip of four views goes to `picture`.

    Args:
        backbone: "nerf" or "mesh"; only a mesh has a surface to measure.
        prompts: the comparison's, among which CLIP must find the right one.
    """
    truth, asked = ground_truth(), asked_or_none(prompt)
    scores = clip_scores(render(trial, get_protocol(plan.protocol)), prompt, prompts, plan)
    views = render(trial, ring_protocol(truth.ring))
    if asked is not None:
        scores |= truth.of_views(asked, views.rgb, views.opacity)
        if backbone == "mesh":
            scores |= truth.of_mesh(asked, *surface(trial))
    shown = [round(azimuth / 360 * truth.ring.count) for azimuth in SHOWN]
    with atomic_path(picture) as temporary:
        Image.fromarray(np.concatenate(list(views.rgb8[shown]), axis=1)).save(temporary, quality=88)
    return scores


def clip_scores(views: Views, prompt: str, prompts: list[str], plan: Plan) -> dict[str, float]:
    """``clip`` (mean cosine × 100) and ``r_precision`` (share of views whose best prompt is the right one)."""
    scorer = clip_scorer(plan.clip, plan.clip_pretrained)
    images, texts = scorer.embed_pictures(list(views.rgb8)), scorer.embed_texts(prompts).cpu()
    truth = prompts.index(prompt)
    scores = {"clip": clip_numbers(images @ texts[truth])["clip_x100"]}
    if len(prompts) > 1:
        scores["r_precision"] = first_in_list(images, texts, truth)[0].mean().item()
    return scores
