"""The bank of a teacher that draws several views at once: groups, each at cameras of its own.

A group shows its cameras and no others, so the critic is told these with it, not those of the renderings beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.orbits import cartesian, elevations, lens, look_at, orbit_azimuths, turned
from ..teachers.contract import Conditions
from ..teachers.fingerprint import of_tensors
from ..teachers.randomness import generator
from ..teachers.stable_diffusion.teacher import Teacher
from .bank import BankConfig, DirectionTexts, LatentBank


class PosedTeacher:
    """A multi-view teacher as a bank sees it: its conditions are numbers of rows that have a text and a camera each.

    Args:
        texts: what can be asked for. index: [N] text of each row. view: [N, 16] its camera.
    """

    def __init__(self, teacher: Teacher, texts: DirectionTexts, index: Tensor, view: Tensor) -> None:
        self.teacher, self.texts, self.index, self.view = teacher, texts, index, view
        self.device, self.shape, self.fingerprint = teacher.device, teacher.shape, teacher.fingerprint

    def solve(self, noise: Tensor, rows: Tensor, null: Tensor | None, scale: float, steps: int, **solver) -> Tensor:
        """Samples of whole groups at their cameras; `null` is not read, every row has its own."""
        index, device = self.index[rows.cpu()], noise.device
        posed = self.teacher.seen_from(self.view[rows.cpu()].to(device))
        text, uncond = self.texts.of(index, device), self.texts.null(index, device)
        return posed.solve(noise, text, uncond, scale, steps, **solver)


class RowNumbers(Conditions):
    """Each row is its own condition."""

    def of(self, rows: Tensor, device: torch.device) -> Tensor:
        return rows

    def null(self, rows: Tensor, device: torch.device) -> Tensor:
        return rows


class GroupBank(LatentBank):
    """Latents [up to size, n, C, h, w] of groups, and where their cameras stand.

    Cameras are drawn as `random-multiview-camera-datamodule` draws them, by the ranges of `bank`. A critic told the
    cameras then learns q(x | c) / p(x | c) for every orbit c that renderings come from, from real groups that were
    drawn at theirs: no group is ever shown with cameras that it does not show.

    Args:
        text: see SampleBank.
        text_rows: cameras ↦ rows of `text`.
        teacher, cfg, folder: see LatentBank.
    """

    def __init__(
        self, teacher: Teacher, text: Float[Tensor, "2*P L D"], text_rows: Callable[[dict], Int[Tensor, "B"]],
        cfg: BankConfig, folder: str | Path,
    ) -> None:  # fmt: skip
        self.n = teacher.n_views
        self.cameras = orbits(cfg, self.n, generator(cfg.seed, 0, "cameras of the bank"))
        index, view = text_rows(self.cameras).cpu(), teacher.told(self.cameras)
        identity = [of_tensors({"text": text.float(), "index": index, "view": view}), str(teacher.dtype)]
        posed = PosedTeacher(teacher, DirectionTexts(text), index, view)
        whole_groups = max(cfg.batch_size // self.n, 1) * self.n
        rows = torch.arange(cfg.size * self.n)
        super().__init__(posed, RowNumbers(), rows, cfg, folder, together=self.n, batch=whole_groups, identity=identity)

    def draw(self, groups: int) -> tuple[Float[Tensor, "B C h w"], dict[str, Tensor]]:
        """So many random groups as rows, and their cameras."""
        which, device = torch.randint(len(self.latents), (groups,)), self.latents.device
        rows = (which[:, None] * self.n + torch.arange(self.n)).flatten()
        return self.latents[which.to(device)].flatten(0, 1), {k: v[rows].to(device) for k, v in self.cameras.items()}


def orbits(cfg: BankConfig, n: int, random: torch.Generator) -> dict[str, Tensor]:
    """Cameras of groups around the origin; elevations half even in the angle, half on the sphere."""
    groups = cfg.size
    share, glass = torch.rand(3, groups, generator=random), torch.rand(3, groups, generator=random)
    above = elevations(share[0], *cfg.elevation_range, share[1] < 0.5)
    low, high = cfg.azimuth_range
    around = low + share[2] * (high - low)
    ranges = (cfg.camera_distance_range, cfg.fovy_range, cfg.zoom_range)
    distance, fovy_deg, zoom = (low + x * (high - low) for x, (low, high) in zip(glass, ranges))
    distance, fovy = lens(distance, fovy_deg, zoom, cfg.relative_radius)
    position = cartesian(above, around, distance)
    up = torch.tensor([0.0, 0.0, 1.0]).expand(groups, 3)
    return {
        "elevation": above.repeat_interleave(n),
        "azimuth": orbit_azimuths(around, n),
        "camera_distances": distance.repeat_interleave(n),
        "fovy": fovy.repeat_interleave(n),
        "c2w": turned(look_at(position, torch.zeros_like(position), up), n),
    }
