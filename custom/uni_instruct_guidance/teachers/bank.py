"""Pairs of noise and the teacher's ODE solution, made once, kept on disk in shards, shared by all processes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ..core.errors import UserError
from ..core.files import atomically
from .contract import Conditions, DiffusionTeacher
from .fingerprint import of_settings
from .randomness import Share, StepRandom


class TeacherBank:
    """Triples (z, x_0, row): x_0 is the end of the probability-flow ODE from noise z under the row's condition.

    Args:
        teacher, conditions: who draws, and what for.
        count: pairs; batch: made at once, and kept in one file.
        steps, scale: of the ODE solver, and its classifier-free guidance.
        seed: of noise and rows.
        folder: a sub-folder per (teacher, settings) keeps different banks apart.
        rows: (share, random) ↦ [share.count] rows of `conditions`; default: by their frequencies.
        identity: whatever else decides the pairs, for the sub-folder's name.
    """

    def __init__(
        self,
        teacher: DiffusionTeacher,
        conditions: Conditions,
        folder: str | Path,
        *,
        count: int,
        batch: int,
        steps: int,
        scale: float = 1.0,
        seed: int = 0,
        rows: Callable[[Share, StepRandom], Tensor] | None = None,
        identity: Any = None,
        **solver: Any,
    ) -> None:
        self.teacher, self.conditions, self.count, self.batch = teacher, conditions, count, batch
        self.steps, self.scale, self.seed, self.solver = steps, scale, seed, solver
        self._rows = rows or self._by_frequency
        frequencies = None if conditions.frequencies is None else conditions.frequencies.tolist()
        settings = [count, batch, steps, scale, seed, frequencies, solver, identity, teacher.fingerprint()]
        self.folder = Path(folder) / of_settings(settings)[:16]
        self.noise = self.x0 = self.rows = None

    def shards(self) -> list[Share]:
        """Consecutive parts of the bank, one file each."""
        return Share(0, self.count, self.count).micro(self.batch)

    def make(
        self,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        quiet: bool = False,
        first: int | None = None,
    ) -> None:
        """Compute this process's shards that are not on disk yet, of all or of the `first` ones."""
        wanted = list(enumerate(self.shards()))[:first]
        missing = [(i, s) for i, s in wanted if i % world == rank and not self._path(i).is_file()]
        hidden = quiet or rank > 0 or not missing
        interval = 0.1 if sys.stderr.isatty() else 10.0  # in a log file every drawing of the bar is a line
        for index, shard in tqdm(
            missing, desc="teacher samples", unit="shard", disable=hidden, leave=False, mininterval=interval
        ):
            samples = self._solve(shard, torch.device(device))
            atomically(self._path(index), partial(save_file, samples))

    def load(self, first: int | None = None) -> TeacherBank:
        """Read all shards, or the `first` ones, into memory.

        Raises:
            UserError: a file that is damaged.
        """
        try:
            parts = [load_file(self._path(i)) for i in range(len(self.shards()))[:first]]
        except (OSError, SafetensorError) as error:
            raise UserError(f"bank.path: samples in {self.folder} cannot be read ({error}); remove them") from error
        self.noise, self.x0, self.rows = (torch.cat([p[key] for p in parts]) for key in ("noise", "x0", "labels"))
        return self

    def forget(self) -> None:
        """Remove the files: the next `make` draws them again."""
        for index in range(len(self.shards())):
            self._path(index).unlink(missing_ok=True)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"

    def _by_frequency(self, share: Share, random: StepRandom) -> Tensor:
        if self.conditions.frequencies is None:
            return torch.zeros(share.count, dtype=torch.long)
        return random.labels("labels", share, self.conditions.frequencies)

    @torch.no_grad()
    def _solve(self, shard: Share, device: torch.device) -> dict[str, Tensor]:
        random = StepRandom(self.seed, 0, "bank", device)
        noise = random.normal("z", shard, self.teacher.shape)
        rows = self._rows(shard, random)
        condition = self.conditions.of(rows, device)
        null = self.conditions.null(rows, device) if self.scale != 1.0 else None
        x0 = self.teacher.solve(noise, condition, null, self.scale, self.steps, **self.solver)
        return {"noise": noise.cpu(), "x0": x0.float().cpu().contiguous(), "labels": rows.cpu()}
