"""The bank of teacher samples in 3D: the "real" latents of Algorithm 2, per view-dependent prompt, kept on disk.

What a multi-view teacher draws is in `group_bank.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import UserError
from ..core.ranges import ascending, check, choice, number, whole
from ..teachers.bank import TeacherBank
from ..teachers.contract import Conditions, DiffusionTeacher
from ..teachers.fingerprint import of_tensors
from ..teachers.sampling import SOLVERS


@dataclass
class BankConfig:
    """How teacher samples are made and kept.

    size: samples per view-dependent prompt; of a multi-view teacher: groups in all.
    steps, solver: ODE solver calls per sample.
    guidance_scale: classifier-free guidance while sampling (Algorithm 2 uses the teacher's own).
    refresh_every: steps of training after which the bank is drawn anew (0: never).
    seed: fixes the samples; with the refresh count it makes every bank reproducible, so a resumed run sees the same.
    batch_size: samples drawn at once, a piece of the bank.
    spread: steps of training over which it is drawn, piece by piece, so that the first one need not wait for all of it;
        until then samples come from the pieces that are there (0: all before the first step).
    elevation_range, azimuth_range, camera_distance_range, fovy_range, zoom_range, relative_radius: where a multi-view
        teacher's groups stand; give them what the fields of `data` with these names say, so that cameras alone do not
        tell samples from renderings. All but angles count for teachers that are told how large objects are drawn.
    """

    size: int = 16
    steps: int = 20
    solver: str = "dpm++"
    guidance_scale: float = 7.5
    refresh_every: int = 0
    seed: int = 0
    batch_size: int = 16
    spread: int = 0
    elevation_range: tuple[float, float] = (-10, 90)
    azimuth_range: tuple[float, float] = (-180, 180)
    camera_distance_range: tuple[float, float] = (1.5, 1.8)
    fovy_range: tuple[float, float] = (45, 60)
    zoom_range: tuple[float, float] = (1.0, 1.0)
    relative_radius: bool = False


# Numbers of a BankConfig, see core/ranges.py.
RANGES = {
    "size": whole(least=1, most=1 << 20),
    "steps": whole(least=1),
    "solver": choice(*SOLVERS),
    "guidance_scale": number(least=0),
    "refresh_every": whole(least=0),
    "seed": whole(least=0),
    "batch_size": whole(least=1, most=1 << 16),
    "spread": whole(least=0),
    "elevation_range": ascending(number(least=-90, most=90)),
    "azimuth_range": ascending(number(least=-360, most=360)),
    "camera_distance_range": ascending(number(above=0)),
    "fovy_range": ascending(number(above=0, below=180)),
    "zoom_range": ascending(number(above=0, most=10)),
}


class DirectionTexts(Conditions):
    """Embeddings of the view-dependent prompts [P, L, D], each with its own negative prompt."""

    def __init__(self, text: Float[Tensor, "2*P L D"]) -> None:
        self.cond, self.uncond = text.chunk(2)
        self.count = len(self.cond)

    def of(self, rows: Tensor, device: torch.device) -> Tensor:
        return self.cond[rows.to(self.cond.device)].to(device)

    def null(self, rows: Tensor, device: torch.device) -> Tensor:
        return self.uncond[rows.to(self.uncond.device)].to(device)


class LatentBank:
    """Latents drawn from the teacher once, piece by piece, and cached in `folder`.

    What is there at a step depends on the step alone, not on what an earlier run left in the folder.

    Args:
        teacher, conditions: who draws, and what for.
        owner: row of `conditions` for each sample. together: so many samples make a round, which is drawn whole.
        cfg: see BankConfig. batch: samples of a piece. identity: whatever else decides the samples.
        folder: cache folder; a sub-folder per (teacher, conditions, settings, refresh).
    """

    def __init__(
        self, teacher: DiffusionTeacher, conditions: Conditions, owner: Tensor, cfg: BankConfig, folder: str | Path,
        *, together: int, batch: int, identity: list,
    ) -> None:  # fmt: skip
        check(RANGES, cfg, "bank.")
        self.teacher, self.conditions, self.owner, self.cfg = teacher, conditions, owner, cfg
        self.folder, self.together, self.batch, self.identity = Path(folder), together, batch, identity
        self.period = self.pieces = -1
        self.bank: TeacherBank | None = None
        self.latents: Tensor | None = None

    def update(self, global_step: int) -> None:
        """Bring the bank to this step: the pieces of its refresh period that are due, read from disk or drawn."""
        period, step = divmod(global_step, self.cfg.refresh_every) if self.cfg.refresh_every else (0, global_step)
        if period != self.period:
            self.period, self.pieces, self.bank = period, -1, self._bank(period)
        due = self._due(step)
        if due > self.pieces:
            self.pieces, self.latents = due, self._read_or_draw(due).to(self.teacher.device)

    def _due(self, step: int) -> int:
        """Pieces that are there at a step of the period; at least one round."""
        whole, least = len(self.bank.shards()), -(-self.together // self.batch)
        if step >= self.cfg.spread:
            return whole
        return least + (whole - least) * step // self.cfg.spread

    def _bank(self, period: int) -> TeacherBank:
        cfg = self.cfg
        return TeacherBank(
            self.teacher, self.conditions, self.folder, count=len(self.owner), batch=self.batch, steps=cfg.steps,
            scale=cfg.guidance_scale, seed=cfg.seed * 1_000_003 + period, solver=cfg.solver,
            rows=lambda share, random: share.of(self.owner), identity=self.identity,
        )  # fmt: skip

    def _read_or_draw(self, pieces: int) -> Float[Tensor, "rounds together C h w"]:
        quiet = self.cfg.spread > 0  # a bar for every piece would tear the bar of the training
        self.bank.make(device=self.teacher.device, quiet=quiet, first=pieces)
        try:
            self.bank.load(pieces)
        except UserError:  # a bank is only a cache: a damaged one is drawn again
            self.bank.forget()
            self.bank.make(device=self.teacher.device, quiet=quiet, first=pieces)
            self.bank.load(pieces)
        samples = self.bank.x0
        return samples[: len(samples) // self.together * self.together].unflatten(0, (-1, self.together))


class SampleBank(LatentBank):
    """Latents [n_prompts, up to size, C, h, w] of single views.

    Args:
        teacher: where samples come from.
        text: conditional embeddings of the n_prompts view-dependent prompts, then their unconditional ones.
        cfg, folder: see LatentBank.
    """

    def __init__(
        self, teacher: DiffusionTeacher, text: Float[Tensor, "2*P L D"], cfg: BankConfig, folder: str | Path
    ) -> None:
        texts = DirectionTexts(text)
        # one sample of every prompt, then the next of every prompt: the first pieces serve them all
        owner = torch.arange(texts.count).repeat(cfg.size)
        identity = [of_tensors({"text": text.float()}), str(teacher.dtype)]
        super().__init__(
            teacher, texts, owner, cfg, folder, together=texts.count, batch=cfg.batch_size, identity=identity
        )

    def _read_or_draw(self, pieces: int) -> Float[Tensor, "P N C h w"]:
        return super()._read_or_draw(pieces).transpose(0, 1)

    def draw(
        self, prompt_index: Int[Tensor, "B"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B C h w"]:
        """One random sample of each asked prompt."""
        which = torch.randint(self.latents.shape[1], prompt_index.shape, generator=generator).to(self.latents.device)
        return self.latents[prompt_index.to(self.latents.device), which]
