"""Beside training: progress with losses and images/s, JSONL and TensorBoard, checkpoints, sample grids."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from tqdm import tqdm

from threestudio.utils.sealed import load_sealed, save_sealed

from ..core.errors import UserError, naming
from ..core.files import atomically
from .base_module import StepModule

# The newest checkpoint of a run, and the one before it, for the case that the newest is damaged.
LAST, BEFORE_LAST = "last.ckpt", "before-last.ckpt"


class SealedCheckpointIO(TorchCheckpointIO):
    """A checkpoint is sealed with its check sum, written beside its place and renamed; the one before it is kept."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        with naming(path):
            save_sealed(checkpoint, path, keep_as=BEFORE_LAST)

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location or "cpu")


def read_checkpoint(path: Path, map_location="cpu") -> dict[str, Any]:
    """A checkpoint of this package; a damaged or foreign file is a UserError that names it."""
    try:
        checkpoint = load_sealed(path, map_location)
    except ValueError as error:
        again = f"rename a whole one to {LAST} to go on from it, or " if path.with_name(BEFORE_LAST).is_file() else ""
        raise UserError(f"{error}; {again}remove it to begin anew") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "progress", "config"} <= set(checkpoint):
        raise UserError(f"checkpoint {path} was not written by this trainer; remove it to begin anew")
    return checkpoint


class Log(Callback):
    """Scalars every few steps to a progress bar, `log.jsonl` and the Lightning loggers.

    Args:
        out: folder of log.jsonl, or None.
        every: steps between log lines; 0 only at the end.
        bar: show a progress bar.
    """

    def __init__(self, out: Path | None, every: int, bar: bool = True):
        self.path, self.every, self.show_bar = out and out / "log.jsonl", every, bar
        self.last: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, module: StepModule) -> None:
        self._since = self._began = (time.perf_counter(), module.done_steps)
        self._bar = tqdm(
            total=module.cfg.steps, initial=module.done_steps, unit="step", desc=module.title,
            disable=not (self.show_bar and trainer.is_global_zero), dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
        )  # fmt: skip
        if self.path and trainer.is_global_zero and self.path.is_file():
            self._forget_after(module.done_steps)

    def on_train_batch_end(self, trainer: pl.Trainer, module: StepModule, *_: Any) -> None:
        self._bar.update(1)
        step = module.done_steps
        if step == module.cfg.steps or (self.every and step % self.every == 0):
            self._write(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: StepModule) -> None:
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, module: StepModule, exception: BaseException) -> None:
        if hasattr(self, "_bar"):
            self._bar.close()

    def images_per_second(self, module: StepModule) -> float:
        """Over all processes, since training started."""
        start, step = self._began
        return (module.done_steps - step) * module.cfg.batch / max(time.perf_counter() - start, 1e-9)

    def _write(self, trainer: pl.Trainer, module: StepModule) -> None:
        means = module.flush_scalars()
        (then, before), now = self._since, (time.perf_counter(), module.done_steps)
        self._since = now
        rate = (now[1] - before) * module.cfg.batch / max(now[0] - then, 1e-9)
        skipped = {f"skipped/{name}": count for name, count in module.skipped.items()}
        self.last = {**means, **skipped, "images_per_second": rate, "kimg": now[1] * module.cfg.batch / 1000}
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.log_metrics(self.last, step=now[1])
        if self.path:
            line = {"step": now[1], **{name: float(f"{value:.6g}") for name, value in self.last.items()}}
            with naming(self.path), open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")
        shown = {name.removeprefix("loss/"): f"{v:.3g}" for name, v in means.items() if name.startswith("loss/")}
        shown |= {name: str(count) for name, count in skipped.items() if count}
        self._bar.set_postfix({**shown, "img/s": f"{rate:.0f}"}, refresh=False)

    def _forget_after(self, step: int) -> None:
        """A killed run may have logged steps that its last checkpoint does not have: they are done again."""
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError):
                continue  # cut short by the kill
        atomically(self.path, lambda partial: partial.write_text("".join(kept)))


class Checkpoints(Callback):
    """`last.ckpt` (and the one before it) every few steps and at the end, and the averaged network as safetensors.

    Args:
        out: folder. every: steps; 0 only at the end.
        export: (module, path) ↦ writes the network to be used, whole or not at all. name: of that file or folder.
    """

    def __init__(self, out: Path, every: int, export: Callable[[StepModule, Path], None], name: str):
        self.out, self.every, self.export, self.name = out, every, export, name

    def on_train_batch_end(self, trainer: pl.Trainer, module: StepModule, *_: Any) -> None:
        step = module.done_steps
        if step == module.cfg.steps or (self.every and step % self.every == 0):
            trainer.save_checkpoint(self.out / LAST)
            if trainer.is_global_zero:
                self.export(module, self.out / self.name)


class Grids(Callback):
    """PNG grids from the same noise every few steps: `samples/step-<n>.png`, and once what `first` draws.

    Args:
        out: folder. every: steps; 0 only at the end.
        draw: module ↦ images [N, C, H, W] in [-1, 1]. first: name ↦ images once at the beginning.
    """

    def __init__(self, out: Path, every: int, draw: Callable[[StepModule], Tensor],
                 first: dict[str, Callable[[StepModule], Tensor]] | None = None):  # fmt: skip
        self.folder, self.every, self.draw, self.first = out / "samples", every, draw, first or {}

    def on_train_start(self, trainer: pl.Trainer, module: StepModule) -> None:
        if not trainer.is_global_zero:
            return
        for name, draw in self.first.items():
            path = self.folder / f"{name}.png"
            if not path.is_file():
                save_grid(draw(module), path)

    def on_train_batch_end(self, trainer: pl.Trainer, module: StepModule, *_: Any) -> None:
        step = module.done_steps
        due = step == module.cfg.steps or (self.every and step % self.every == 0)
        if due and trainer.is_global_zero:
            save_grid(self.draw(module), self.folder / f"step-{step:06d}.png")


def save_grid(images: Tensor, path: Path, smallest: int = 24) -> None:
    """Images [N, C, H, W] in [-1, 1] as one PNG, ten in a row; small ones enlarged so that one can see them."""
    from torchvision.utils import make_grid
    from torchvision.utils import save_image as save

    factor = max(1, round(smallest / images.shape[-1]))
    images = images.float().cpu().clamp(-1, 1).add(1).div(2)
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    grid = make_grid(images, nrow=10, padding=2, pad_value=0.5)
    atomically(path, lambda partial: save(grid, partial, format="png"))
