"""A ring of views, and what the judge reads in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ..shapes_world import VIEW_CLASSES, fit_distance, view_word
from ..teacher_factory import Judge
from .asked import Asked


@dataclass(frozen=True)
class Ring:
    """Cameras around the object at one height.

    Args:
        count: azimuths, from 0° (the front) on in equal steps. Twelve stay 15° away from every border between the
            view words (45° and 135°): there a word would be a matter of taste.
        elevation_deg, fovy_deg: degrees. fill: share of the field of view that the world's unit of size spans.
        size: pixels along each side.
    """

    count: int = 12
    elevation_deg: float = 20.0
    fovy_deg: float = 50.0
    fill: float = 0.85
    size: int = 96

    @property
    def azimuths_deg(self) -> Float[np.ndarray, "n"]:
        """Degrees in [0, 360)."""
        return np.arange(self.count) * 360.0 / self.count

    @property
    def distance(self) -> float:
        """From the origin, in world units."""
        return fit_distance(self.fovy_deg, self.fill)

    @property
    def words(self) -> list[str]:
        """View word of each camera by threestudio's thresholds."""
        return [view_word(azimuth, self.elevation_deg) for azimuth in self.azimuths_deg]


def judge_views(judge: Judge, images: Float[np.ndarray, "n h w 3"], words: list[str], asked: Asked) -> dict[str, float]:
    """Shares of the views that show what was asked for, each in 0..1.

    ``class``, ``color``, ``pattern``: read as asked; colour and pattern are left out where the prompt says nothing.
    ``view``: read as the view's own word, and ``janus``: views that are not the front but read as one, as a share of
    them. Both are left out for classes that look the same all round.

    Args:
        images: 0..1. words: view word of each.

    Raises:
        ValueError: numbers of images and words differ.
    """
    if len(images) != len(words):
        raise ValueError(f"{len(images)} images for {len(words)} view words")
    read = {head: logits.argmax(1).cpu().numpy() for head, logits in judge(np.asarray(images, np.float32)).items()}
    scores = {"class": _share(read["class"], judge.names["class"], (asked.class_name,))}
    for head, right in (("color", asked.colors), ("pattern", asked.patterns)):
        if right:
            scores[head] = _share(read[head], judge.names[head], right)
    if asked.class_name in VIEW_CLASSES:
        names = judge.names["view"]
        seen = np.array([names[i] for i in read["view"]])
        truth = np.array(words)
        scores["view"] = float((seen == truth).mean())
        if (truth != "front").any():
            scores["janus"] = float((seen[truth != "front"] == "front").mean())
    return scores


def _share(read: Int[np.ndarray, "n"], names: tuple[str, ...], right: tuple[str, ...]) -> float:
    return float(np.isin(read, [names.index(name) for name in right]).mean())
