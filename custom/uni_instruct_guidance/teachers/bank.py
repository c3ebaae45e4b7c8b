"""The bank of teacher samples: the "real" latents of Algorithm 2, per view-dependent prompt, kept on disk."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ..core.files import atomically
from ..core.ranges import check, number, whole
from .stable_diffusion.checks import check_safetensors
from .stable_diffusion.solvers import sample_latents
from .stable_diffusion.teacher import Teacher


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
    "size": whole(least=1),
    "steps": whole(least=1),
    "guidance_scale": number(least=0),
    "refresh_every": whole(least=0),
    "seed": whole(least=0),
    "batch_size": whole(least=1),
}


class SampleBank:
    """Latents [n_prompts, size, C, h, w] drawn from the teacher once and cached in `folder`.

    Args:
        teacher: where samples come from.
        text: conditional embeddings of the n_prompts view-dependent prompts, then their unconditional ones.
        cfg: see BankConfig.
        folder: cache folder; one safetensors file per (teacher, prompts, settings, refresh).
    """

    def __init__(self, teacher: Teacher, text: Float[Tensor, "2*P L D"], cfg: BankConfig, folder: str | Path) -> None:
        check(RANGES, cfg, "bank.")
        self.teacher, self.text, self.cfg, self.folder = teacher, text, cfg, Path(folder)
        self.refresh_count = -1
        self.latents: Tensor | None = None

    def update(self, global_step: int) -> None:
        """Make the bank of this step's refresh period current: read it from disk or draw it."""
        count = global_step // self.cfg.refresh_every if self.cfg.refresh_every else 0
        if count != self.refresh_count:
            self.latents = self._load_or_draw(count).to(self.teacher.device)
            self.refresh_count = count

    def draw(
        self, prompt_index: Int[Tensor, "B"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B C h w"]:
        """One random sample of each asked prompt."""
        which = torch.randint(self.cfg.size, prompt_index.shape, generator=generator).to(self.latents.device)
        return self.latents[prompt_index.to(self.latents.device), which]

    def path(self, refresh_count: int) -> Path:
        """File of one bank. Its name depends on everything that decides its content."""
        identity = {
            "teacher": self.teacher.name,
            "weights": _fingerprint(next(self.teacher.unet.parameters())),
            "text": _fingerprint(self.text),
            "dtype": str(self.teacher.dtype),
            "refresh": refresh_count,
            **{key: value for key, value in asdict(self.cfg).items() if key != "refresh_every"},
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
        return self.folder / f"bank-{digest}.safetensors"

    def _load_or_draw(self, refresh_count: int) -> Tensor:
        path = self.path(refresh_count)
        if path.is_file():
            try:
                check_safetensors(path)
                return load_file(path)["latents"]
            except ValueError:
                path.unlink()  # a bank is only a cache: a damaged one is drawn again
        latents = self._draw_all(refresh_count)
        atomically(path, lambda partial: save_file({"latents": latents}, partial))
        return latents

    def _draw_all(self, refresh_count: int) -> Float[Tensor, "P N C h w"]:
        n_prompts, size = self.text.shape[0] // 2, self.cfg.size
        cond, uncond = self.text.chunk(2)
        generator = torch.Generator().manual_seed(self.cfg.seed * 1_000_003 + refresh_count)
        owner = torch.arange(n_prompts).repeat_interleave(size)
        chunks = owner.split(self.cfg.batch_size)
        latents = []
        for chunk in tqdm(chunks, desc="teacher samples", unit="batch", leave=False):
            index = chunk.to(cond.device)
            text = torch.cat([cond[index], uncond[index]])

            def predict(x_t: Tensor, t: Tensor, text: Tensor = text) -> Tensor:
                return self.teacher.predict_x0_guided(x_t, t, text, self.cfg.guidance_scale)

            latents.append(
                sample_latents(
                    self.teacher,
                    predict,
                    len(chunk),
                    steps=self.cfg.steps,
                    generator=generator,
                    solver=self.cfg.solver,
                ).cpu()
            )
        return torch.cat(latents).unflatten(0, (n_prompts, size)).contiguous()


def _fingerprint(tensor: Tensor) -> str:
    data = tensor.detach().float().cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(data).hexdigest()[:16]
