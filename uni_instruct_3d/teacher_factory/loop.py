"""One training loop for every phase: resumable at any step, seeded per step, with a progress bar and time left."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .presets import OptimConfig

StepFunction = Callable[[torch.Generator, int], tuple[Tensor, dict[str, float]]]


def step_generator(seed: int, phase: str, step: int) -> torch.Generator:
    """The random numbers of one step: they depend on (seed, phase, step) only, so that a resumed run repeats them."""
    key = zlib.crc32(f"{phase}:{seed}:{step}".encode())
    return torch.Generator().manual_seed((seed << 32) ^ key)


def learning_rate(step: int, optim: OptimConfig) -> float:
    """Trapezoid: 0 -> lr over ``warmup`` steps, constant, then linear to lr/100 over the last ``decay`` share."""
    rise = min(1.0, (step + 1) / max(optim.warmup, 1))
    fall = min(1.0, (optim.steps - step) / max(optim.decay * optim.steps, 1.0))
    return optim.lr * min(rise, max(fall, 0.01))


def ema_decay(step: int, decay: float) -> float:
    """EMA decay with the usual warm-up, so that the first steps do not remember the initialisation."""
    return min(decay, (1 + step) / (10 + step))


def atomic_save(payload: object, path: Path) -> None:
    """torch.save into a neighbour file, then one rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    torch.save(payload, partial)
    os.replace(partial, path)


class Trainer:
    """Trains ``model`` with AdamW and keeps its exponential moving average, saving itself to ``checkpoint``.

    ``train`` runs from wherever the checkpoint stands to ``optim.steps``; killed at any moment, the next call goes on
    from the last checkpoint and gives the same weights as an unbroken run.
    """

    def __init__(
        self, phase: str, model: nn.Module, optim: OptimConfig, checkpoint: Path, *, seed: int,
        save_minutes: float = 4.0, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.phase, self.config, self.checkpoint, self.seed = phase, optim, checkpoint, seed
        self.save_minutes, self.device = save_minutes, torch.device(device)
        self.model = model.to(self.device).train()
        self.ema = deepcopy(self.model).eval().requires_grad_(False)
        decayed = [p for p in self.model.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.requires_grad and p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=optim.lr, betas=optim.betas, fused=True,
        )  # fmt: skip
        self.step = 0
        if checkpoint.exists():
            self._load()

    def _load(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def save(self) -> None:
        """Write the whole state (weights, EMA, optimiser, step) atomically."""
        atomic_save(
            {"model": self.model.state_dict(), "ema": self.ema.state_dict(),
             "optimizer": self.optimizer.state_dict(), "step": self.step},
            self.checkpoint,
        )  # fmt: skip

    @torch.no_grad()
    def _update_ema(self) -> None:
        weight = 1.0 - ema_decay(self.step, self.config.ema)
        averaged, current = list(self.ema.parameters()), [p.detach() for p in self.model.parameters()]
        torch._foreach_lerp_(averaged, current, weight)
        for kept, buffer in zip(self.ema.buffers(), self.model.buffers()):
            kept.copy_(buffer)

    def train(
        self, step_function: StepFunction, on_save: Callable[[], None] | None = None, stop_at: int | None = None
    ) -> nn.Module:
        """Run to ``optim.steps`` (or ``stop_at``) and return the moving average.

        ``step_function(generator, step)`` returns (loss, scalars to show). ``on_save`` runs after each checkpoint:
        sample grids, exports.
        """
        last, saved = min(stop_at or self.config.steps, self.config.steps), time.monotonic()
        shown: dict[str, float] = {}
        with tqdm(total=self.config.steps, initial=self.step, desc=self.phase, unit="step", mininterval=2.0) as bar:
            while self.step < last:
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(self.step, self.config)
                loss, scalars = step_function(step_generator(self.seed, self.phase, self.step), self.step)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
                self.optimizer.step()
                self.step += 1
                self._update_ema()
                for name, value in scalars.items():
                    shown[name] = 0.98 * shown.get(name, value) + 0.02 * value
                bar.update(1)
                bar.set_postfix({name: f"{value:.4f}" for name, value in shown.items()}, refresh=False)
                if time.monotonic() - saved > 60 * self.save_minutes or self.step == last:
                    self.save()
                    if on_save is not None:
                        on_save()
                    saved = time.monotonic()
        return self.ema
