"""A prompt output with random embeddings that follows threestudio's contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass
class Direction:
    name: str
    condition: Callable


def wrap(azimuth):
    return (azimuth + 180) % 360 - 180


class StubPrompts:
    """Four directions in threestudio's order and rules: side, front, back, overhead; later rules win."""

    def __init__(self, width: int, length: int = 16, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.text_embeddings = torch.randn(1, length, width, generator=generator)
        self.uncond_text_embeddings = torch.randn(1, length, width, generator=generator)
        self.text_embeddings_vd = torch.randn(4, length, width, generator=generator)
        self.uncond_text_embeddings_vd = self.uncond_text_embeddings.expand(4, -1, -1).clone()
        self.directions = [
            Direction("side", lambda e, a, d: torch.ones_like(e, dtype=torch.bool)),
            Direction("front", lambda e, a, d: wrap(a).abs() < 45),
            Direction("back", lambda e, a, d: wrap(a).abs() > 135),
            Direction("overhead", lambda e, a, d: e > 60),
        ]
        self.direction2idx = {direction.name: i for i, direction in enumerate(self.directions)}
        self.use_perp_neg = False
        self.prompt = "a red mug"
        self.prompts_vd = [f"a red mug, {direction.name} view" for direction in self.directions]

    def get_text_embeddings(self, elevation, azimuth, camera_distances, view_dependent_prompting=True):
        if not view_dependent_prompting:
            n = len(elevation)
            return torch.cat([self.text_embeddings.expand(n, -1, -1), self.uncond_text_embeddings.expand(n, -1, -1)])
        index = torch.zeros(len(elevation), dtype=torch.long)
        for direction in self.directions:
            index[direction.condition(elevation, azimuth, camera_distances)] = self.direction2idx[direction.name]
        return torch.cat([self.text_embeddings_vd[index], self.uncond_text_embeddings_vd[index]])


def cameras(batch: int = 2) -> dict:
    """Batch entries as the data module gives them."""
    azimuth = torch.linspace(0, 360, batch + 1)[:-1]
    return {
        "elevation": torch.full((batch,), 15.0),
        "azimuth": azimuth,
        "camera_distances": torch.full((batch,), 1.5),
        "fovy": torch.full((batch,), 0.9),
        "c2w": torch.eye(4).expand(batch, 4, 4) + azimuth.reshape(-1, 1, 1) * 0.01,
        "mvp_mtx": torch.eye(4).expand(batch, 4, 4),
    }
