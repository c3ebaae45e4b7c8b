"""How good a multi-view teacher is: what its groups show, from where, and whether their views are of one object."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from torch import Tensor

from uni_instruct_guidance.teachers.stable_diffusion.teacher import Teacher

from ..shapes_world.palette import COLORS, PATTERNS
from ..shapes_world.render import fit_distance, look_at, make_instance, render
from .camera_report import view
from .judge import AZIMUTH, Judge, azimuth_error

#: Of the world's own objects beside the teacher's: far from the seeds of any data set.
FIRST_SEED = 900_000
#: Cameras of the groups that are drawn: one height, four of these turns in turn.
ELEVATION_DEG, FOVY_DEG, TURNS_DEG = 15.0, 50.0, (0.0, 30.0, 60.0, -30.0)


def asked_groups(world, n_views: int, view_words: bool = True) -> list[dict]:
    """Every class in two colours: prompts and azimuths of a group's views, and the words' numbers.

    ``view_words``: whether prompts say which view they are of; else the matrix alone tells.
    """
    rows = []
    for c, name in enumerate(world.CLASSES):
        for turn in range(2):
            k, p = (2 * c + 5 * turn) % len(world.COLORS), (c + turn) % len(world.PATTERNS)
            first = TURNS_DEG[(c + turn) % len(TURNS_DEG)]
            azimuths = [(first + 360.0 * i / n_views) % 360.0 for i in range(n_views)]
            words = [view(azimuth) for azimuth in azimuths]
            told = words if view_words else [None] * n_views
            texts = [world.caption(name, world.COLORS[k], world.PATTERNS[p], word) for word in told]
            labels = {"class": c, "color": k, "pattern": p}
            rows.append({"texts": texts, "azimuths": azimuths, "words": words, "name": name, **labels})
    return rows


@torch.no_grad()
def draw_groups(
    teacher: Teacher, pipeline: StableDiffusionPipeline, rows: list[dict], guidance: float, steps: int, seed: int = 0,
    batch: int = 8,
) -> UInt8[np.ndarray, "n h w 3"]:  # fmt: skip
    """All views of all groups, one after the other. ``pipeline``: for its text encoder."""

    def embed(texts: list[str]) -> Tensor:
        length = pipeline.tokenizer.model_max_length
        tokens = pipeline.tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        return pipeline.text_encoder(tokens)[0]

    generator, images, distance = torch.Generator().manual_seed(seed), [], fit_distance(FOVY_DEG)
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        texts = [text for row in part for text in row["texts"]]
        poses = np.stack([look_at(azimuth, ELEVATION_DEG, distance) for row in part for azimuth in row["azimuths"]])
        cameras = {"c2w": torch.from_numpy(poses), "fovy": torch.full((len(poses),), math.radians(FOVY_DEG))}
        noise = torch.randn((len(texts), *teacher.shape), generator=generator)
        bound = teacher.seen_from(teacher.told(cameras))
        latents = bound.solve(noise, embed(texts), embed([""] * len(texts)), guidance, steps)
        images.append((teacher.decode(latents).permute(0, 2, 3, 1) * 255).round().byte().numpy())
    return np.concatenate(images)


def group_quality(judge: Judge, world, rows: list[dict], images: UInt8[np.ndarray, "n h w 3"]) -> dict[str, float]:
    """Shares of views read as asked (``class, color, pattern, view``), heading error, and agreement inside groups.

    ``heading``: median degrees between asked and seen azimuth, classes whose views differ. ``together``, ``shuffled``:
    see :func:`agreement`.
    """
    n_views = len(rows[0]["texts"])
    seen = [judge(images[i : i + 256]) for i in range(0, len(images), 256)]
    logits = {head: torch.cat([part[head] for part in seen]) for head in seen[0]}
    heads = ("class", "color", "pattern")
    asked = {key: torch.tensor([row[key] for row in rows for _ in row["texts"]]) for key in heads}
    result = {key: float((logits[key].argmax(1) == truth).float().mean()) for key, truth in asked.items()}
    words = torch.tensor([world.VIEWS.index(word) for row in rows for word in row["words"]])
    distinct = torch.tensor([row["name"] in world.VIEW_CLASSES for row in rows for _ in row["texts"]])
    result["view"] = float((logits["view"].argmax(1) == words)[distinct].float().mean())
    if AZIMUTH in logits:
        azimuths = torch.tensor([azimuth for row in rows for azimuth in row["azimuths"]])
        result["heading"] = float(azimuth_error(logits[AZIMUTH][distinct], azimuths[distinct]).median())
    answers = torch.cat([logits[head].softmax(1) for head in heads], 1)
    result |= agreement(answers.unflatten(0, (-1, n_views)))
    return result


def world_groups(rows: list[dict], size: int) -> UInt8[np.ndarray, "n h w 3"]:
    """The world's own renders of the same groups: a perfect teacher's, which say how well the judge reads."""
    images = []
    for index, row in enumerate(rows):
        instance = make_instance(row["name"], COLORS[row["color"]], PATTERNS[row["pattern"]], FIRST_SEED + index)
        background = tuple(np.random.default_rng(index).uniform(0.5, 0.8, 3))
        for azimuth in row["azimuths"]:
            view = render(instance, azimuth, ELEVATION_DEG, FOVY_DEG, size=size, background=background)
            images.append((view["image"] * 255).round().astype(np.uint8))
    return np.stack(images)


def group_table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown: what the judge reads in the groups of each row."""
    titles = {
        "class": "class %", "color": "colour %", "pattern": "pattern %", "view": "view %", "heading": "heading °",
        "together": "together", "shuffled": "shuffled",
    }  # fmt: skip
    scale = {"together": (1, 2), "shuffled": (1, 2), "heading": (1, 0)}
    lines = ["| | " + " | ".join(titles.values()) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, row in rows.items():
        cells = [
            f"{row[key] * scale.get(key, (100, 1))[0]:.{scale.get(key, (100, 1))[1]}f}" if key in row else "–"
            for key in titles
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def agreement(answers: Float[Tensor, "g n k"]) -> dict[str, float]:
    """Mean cosine of the answers to two views of one group (``together``), and of views of different groups
    (``shuffled``)."""
    unit = F.normalize(answers, dim=-1)
    flat = unit.flatten(0, 1)
    cosines = flat @ flat.T
    group = torch.arange(len(answers)).repeat_interleave(answers.shape[1])
    same = group[:, None] == group[None]
    other = ~torch.eye(len(group), dtype=torch.bool)
    return {"together": float(cosines[same & other].mean()), "shuffled": float(cosines[~same].mean())}
