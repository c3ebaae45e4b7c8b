"""The bank of teacher samples in 3D: the "real" latents of Algorithm 2, per view-dependent prompt, kept on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import UserError, choose
from ..core.ranges import check, number, whole
from ..teachers.bank import TeacherBank
from ..teachers.contract import Conditions, DiffusionTeacher
from ..teachers.fingerprint import of_tensors
from ..teachers.sampling import SOLVERS


@dataclass
class BankConfig:
    """How teacher samples are made and kept.

    size: samples per view-dependent prompt.
    steps, solver: ODE solver calls per sample.
    guidance_scale: classifier-free guidance while sampling (Algorithm 2 uses the teacher's own).
    refresh_every: steps of training after which the bank is drawn anew (0: never).
    seed: fixes the samples; with the refresh count it makes every bank reproducible, so a resumed run sees the same.
    batch_size: samples drawn at once.
    """

    size: int = 16
    steps: int = 20
    solver: str = "dpm++"
    guidance_scale: float = 7.5
    refresh_every: int = 0
    seed: int = 0
    batch_size: int = 16


# Numbers of a BankConfig, see core/ranges.py.
RANGES = {
    "size": whole(least=1, most=1 << 20),
    "steps": whole(least=1),
    "guidance_scale": number(least=0),
    "refresh_every": whole(least=0),
    "seed": whole(least=0),
    "batch_size": whole(least=1, most=1 << 16),
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


class SampleBank:
    """Latents [n_prompts, size, C, h, w] drawn from the teacher once and cached in `folder`.

    Args:
        teacher: where samples come from.
        text: conditional embeddings of the n_prompts view-dependent prompts, then their unconditional ones.
        cfg: see BankConfig.
        folder: cache folder; a sub-folder per (teacher, prompts, settings, refresh).
    """

    def __init__(
        self, teacher: DiffusionTeacher, text: Float[Tensor, "2*P L D"], cfg: BankConfig, folder: str | Path
    ) -> None:
        check(RANGES, cfg, "bank.")
        choose("bank.solver", cfg.solver, SOLVERS)
        self.teacher, self.texts, self.cfg, self.folder = teacher, DirectionTexts(text), cfg, Path(folder)
        self.identity = [of_tensors({"text": text.float()}), str(teacher.dtype)]
        self.refresh_count = -1
        self.latents: Tensor | None = None

    def update(self, global_step: int) -> None:
        """Make the bank of this step's refresh period current: read it from disk or draw it."""
        count = global_step // self.cfg.refresh_every if self.cfg.refresh_every else 0
        if count != self.refresh_count:
            self.latents = self._read_or_draw(count).to(self.teacher.device)
            self.refresh_count = count

    def draw(
        self, prompt_index: Int[Tensor, "B"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B C h w"]:
        """One random sample of each asked prompt."""
        which = torch.randint(self.cfg.size, prompt_index.shape, generator=generator).to(self.latents.device)
        return self.latents[prompt_index.to(self.latents.device), which]

    def _read_or_draw(self, refresh_count: int) -> Float[Tensor, "P N C h w"]:
        cfg, owner = self.cfg, torch.arange(self.texts.count).repeat_interleave(self.cfg.size)
        bank = TeacherBank(
            self.teacher, self.texts, self.folder, count=len(owner), batch=cfg.batch_size, steps=cfg.steps,
            scale=cfg.guidance_scale, seed=cfg.seed * 1_000_003 + refresh_count, solver=cfg.solver,
            rows=lambda share, random: share.of(owner), identity=self.identity,
        )  # fmt: skip
        bank.make(device=self.teacher.device)
        try:
            bank.load()
        except UserError:  # a bank is only a cache: a damaged one is drawn again
            bank.forget()
            bank.make(device=self.teacher.device)
            bank.load()
        return bank.x0.unflatten(0, (self.texts.count, cfg.size))
