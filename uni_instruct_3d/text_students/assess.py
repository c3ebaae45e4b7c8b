"""How near a text-to-image model of the built-in world comes to that world: judge, Fréchet distance, CLIP, seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from uni_instruct_guidance.distill2d.metrics import Moments, frechet_distance
from uni_instruct_guidance.scoring.clip import ClipScorer, diversity
from uni_instruct_guidance.teachers.stable_diffusion.teacher import pick_dtype

from .. import shapes_world as world
from ..teacher_factory.judge import HEADS, Judge, built_in_judge

Draw = Callable[[list[str], int], UInt8[np.ndarray, "n h w 3"]]  # prompts, seed of the noise


@dataclass(frozen=True)
class Assessment:
    """The same questions to everyone.

    Attributes:
        images: captions of colour renders of the world, drawn with `world_seed`, which no training used.
        seed: of the noise. pairs: captions drawn four times for the diversity.
        batch: pictures drawn at once.
    """

    images: int = 1000
    world_seed: int = 90_001
    seed: int = 0
    pairs: int = 24
    batch: int = 50


@dataclass(frozen=True)
class Questions:
    """Captions, what each asks for, and the world's own picture of it."""

    captions: list[str]
    labels: dict[str, np.ndarray]
    images: UInt8[np.ndarray, "n h w 3"]


@lru_cache(maxsize=1)
def ask_world(assessment: Assessment) -> Questions:
    """Colour renders in the order of the world's endless data set."""
    count = int(assessment.images * 1.4) + 8  # an eighth are normal maps and grey renders
    items = world.sample_batch(assessment.world_seed, 0, count, split="all")
    kept = np.flatnonzero(items["kind"] == 0)[: assessment.images]
    names = {"class": "class_id", "color": "color_id", "pattern": "pattern_id", "view": "view_id"}
    labels = {head: items[key][kept] for head, key in names.items()}
    return Questions([items["caption"][i] for i in kept], labels, items["image"][kept])


def one_step_pipeline(folder: Path) -> Draw:
    """A student's folder as anyone would use it: one network call per picture."""
    return _pipeline(folder, {"num_inference_steps": 1, "guidance_scale": 0.0}, None)


def guided_pipeline(folder: Path, steps: int = 20, guidance: float = 6.0) -> Draw:
    """The teacher as its card says: DPM-Solver++ with guidance."""
    return _pipeline(folder, {"num_inference_steps": steps, "guidance_scale": guidance}, "dpm++")


def _pipeline(folder: Path, options: dict, solver: str | None) -> Draw:
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    dtype = pick_dtype(True, torch.device("cpu"))
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    if solver is not None:
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)

    def draw(prompts: list[str], seed: int) -> UInt8[np.ndarray, "n h w 3"]:
        generators = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
        images = pipeline(prompts, generator=generators, output_type="np", **options).images
        return (images * 255).round().astype(np.uint8)

    return draw


@torch.no_grad()
def judge_features(judge: Judge, images: UInt8[np.ndarray, "n h w 3"], batch: int = 250) -> tuple[Tensor, dict]:
    """Pooled features [n, F] that the judge's heads read, and its verdicts per head [n]."""
    found: list[Tensor] = []
    handle = judge.heads["class"].register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        logits = [judge(images[start : start + batch]) for start in range(0, len(images), batch)]
    finally:
        handle.remove()
    return torch.cat(found), {head: torch.cat([part[head] for part in logits]).argmax(1).numpy() for head in HEADS}


def accuracies(judge: Judge, verdicts: dict[str, np.ndarray], questions: Questions) -> dict[str, float]:
    """Share of right answers in per cent; view over the classes whose views differ."""
    distinct = np.isin(questions.labels["class"], [judge.names["class"].index(name) for name in judge.view_classes])
    right = {head: verdicts[head] == questions.labels[head] for head in HEADS}
    return {head: 100 * float((right[head][distinct] if head == "view" else right[head]).mean()) for head in HEADS}


def assess(draw: Draw, questions: Questions, assessment: Assessment) -> dict[str, float]:
    """Every figure of one model: accuracies, `fd` to the world's pictures, `clip` (cosine × 100), the rest as named."""
    judge, clip = built_in_judge(), ClipScorer()
    start, images = time.perf_counter(), []
    for first in range(0, len(questions.captions), assessment.batch):
        images.append(draw(questions.captions[first : first + assessment.batch], assessment.seed + first))
    seconds = (time.perf_counter() - start) / len(questions.captions)
    images = np.concatenate(images)
    features, verdicts = judge_features(judge, images)
    real, _ = judge_features(judge, questions.images)
    again = np.stack([draw(questions.captions[: assessment.pairs], 7_000_000 * (s + 1)) for s in range(4)])
    return {
        **accuracies(judge, verdicts, questions),
        "fd": frechet_distance(Moments.of(features), Moments.of(real)),
        "clip": 100 * float((_embedded(clip, images) * clip.embed_texts(questions.captions)).sum(1).mean()),
        "diversity": diversity(torch.stack([_embedded(clip, part) for part in again])),
        "seconds": seconds,
        "images": len(images),
    }


@torch.no_grad()
def _embedded(clip: ClipScorer, images: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n D"]:
    parts = [torch.from_numpy(images[start : start + 100]).float() / 255 for start in range(0, len(images), 100)]
    return torch.cat([clip.embed(part) for part in parts])
