"""All scores of one object's pictures, as a row of a table and as the numbers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.files import listed_lines
from .aesthetic import AestheticScorer
from .clip import ClipScorer, clip_numbers, first_in_list
from .preferences import preference_scores, t3bench_quality
from .sources import Views

T3BENCH = "t3bench-162x5@1"


@dataclass(frozen=True)
class Scorers:
    """What scores. prompts: the list among which the right prompt has to come first; preferences: their names."""

    clip: ClipScorer
    aesthetic: AestheticScorer | None = None
    prompts: tuple[str, ...] = ()
    preferences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """numbers: means over the pictures, for a table. per_view: the value of each picture. embeddings: unit, [n, D]."""

    numbers: dict[str, float]
    per_view: dict[str, list[float]]
    embeddings: Float[Tensor, "n D"] = field(repr=False)

    def as_json(self, views: Views) -> dict[str, Any]:
        """Everything but the embeddings, with where the pictures came from."""
        return {
            "path": str(views.path),
            "kind": views.kind,
            "cameras": views.cameras,
            "views": len(views.pictures),
            "notes": list(views.notes),
            **self.numbers,
            "per_view": self.per_view,
        }


def summarise(views: Views, prompt: str, scorers: Scorers) -> Summary:
    """Score one object's pictures for a prompt.

    Raises:
        ValueError: a preference score that is not installed; `prompts` without the prompt.
    """
    embeddings = scorers.clip.embed_pictures(views.pictures)
    cosine = embeddings @ scorers.clip.embed_texts([prompt])[0].cpu()
    numbers, per_view = clip_numbers(cosine), {"cosine": cosine}
    if scorers.prompts:
        if prompt not in scorers.prompts:
            raise ValueError(f"the prompt {prompt!r} is not in the list of {len(scorers.prompts)} prompts")
        texts = scorers.clip.embed_texts(scorers.prompts).cpu()
        right, rank = first_in_list(embeddings, texts, scorers.prompts.index(prompt))
        numbers |= {"r_precision": right.mean().item(), "rank": rank, "prompts": len(scorers.prompts)}
        per_view["r_precision"] = right
    if scorers.aesthetic is not None:
        per_view["aesthetic"] = scorers.aesthetic.of_embeddings(embeddings).cpu()
        numbers["aesthetic"] = per_view["aesthetic"].mean().item()
    for name in scorers.preferences:
        per_view[name] = preference_scores(name, views.pictures, prompt)
        numbers[name] = per_view[name].mean().item()
        if name == "imagereward" and views.cameras == T3BENCH:
            numbers["t3bench_quality"] = t3bench_quality(per_view[name])
    return Summary(numbers, {key: torch.as_tensor(value).tolist() for key, value in per_view.items()}, embeddings)


def common_views(summaries: Sequence[Summary]) -> Float[Tensor, "S N D"] | None:
    """Embeddings of several seeds view by view; None where they do not have the same number of views."""
    if len({len(summary.embeddings) for summary in summaries}) != 1 or len(summaries) < 2:
        return None
    return torch.stack([summary.embeddings for summary in summaries])


def read_prompts(path: str | Path) -> tuple[list[str], int]:
    """Prompts of a text file, one a line, and how many blank lines were passed over; lines with # first are comments.

    Raises:
        ValueError: missing, not text, nothing but blank lines and comments, or a prompt twice.
    """
    prompts, blank = listed_lines(path, "prompt list")
    twice = sorted({prompt for prompt in prompts if prompts.count(prompt) > 1})
    if twice:
        raise ValueError(f"prompt list {path}: {twice[0]!r} is there twice; it could not come first")
    return prompts, blank
