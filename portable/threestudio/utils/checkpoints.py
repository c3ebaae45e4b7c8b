"""Checkpoints that are complete or absent, whenever the process dies, and that know when they are damaged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from threestudio.utils.errors import UserError
from threestudio.utils.guard import remove_leftovers
from threestudio.utils.misc import load_checkpoint, parse_version, require_weights
from threestudio.utils.sealed import save_sealed

#: The newest checkpoint of a run, and the one before it, for the case that the newest is damaged.
LAST, BEFORE_LAST = "last.ckpt", "before-last.ckpt"

#: Entry of a checkpoint -> its type. What Lightning and the systems read when a run goes on.
ENTRIES = {
    "state_dict": dict,
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "pytorch-lightning_version": str,
}


def require_resumable(checkpoint: dict[str, Any], path: str | os.PathLike) -> None:
    """Refuse a file that is no run's checkpoint, such as a bare ``state_dict``.

    Raises:
        UserError: which entry is missing or of the wrong type.
    """
    for entry, kind in ENTRIES.items():
        if entry not in checkpoint:
            found = ", ".join(list(map(str, checkpoint))[:8])
            raise UserError(f"{path} is no checkpoint of a run: it has no {entry}; its entries: {found}")
        if not isinstance(checkpoint[entry], kind) or isinstance(checkpoint[entry], bool):
            got = type(checkpoint[entry]).__name__
            raise UserError(f"{path} is no checkpoint of a run: {entry} is a {got}, not a {kind.__name__}")
    require_weights(checkpoint["state_dict"], path)
    if not checkpoint["optimizer_states"]:  # Lightning would go on with a fresh optimiser and say nothing
        raise UserError(f"{path} cannot be gone on from: its optimizer_states is empty")
    try:
        parse_version(checkpoint["pytorch-lightning_version"])
    except ValueError as error:
        raise UserError(f"{path} is no checkpoint of a run: pytorch-lightning_version: {error}") from error


class AtomicCheckpointIO(TorchCheckpointIO):
    """Sealed files, written beside their place and renamed; tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save a checkpoint; what ``last.ckpt`` was before stays as ``before-last.ckpt``.

        Raises:
            OSError: full disk, no permission; the file that was there is still whole.
        """
        save_sealed(checkpoint, path, keep_as=BEFORE_LAST if Path(path).name == LAST else None)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Load a checkpoint; a damaged one is a ValueError that names it."""
        return load_checkpoint(path, map_location or "cpu")


class ResumableCheckpoint(ModelCheckpoint):
    """Lightning's checkpoint callback, with ``last.ckpt`` always under that name and of the last step when it ends.

    By default Lightning writes ``last-v1.ckpt`` when a resumed run finds the file of the run it continues, and leaves
    the steps after the last multiple of ``every_n_train_steps`` unsaved.
    """

    def __init__(self, dirpath: str, **kwargs: Any) -> None:
        super().__init__(dirpath=dirpath, **{"enable_version_counter": False, **kwargs})
        self._saved_at = 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Remove what a killed run left half-written."""
        super().setup(trainer, pl_module, stage)
        remove_leftovers(self.dirpath or ".")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """A run that goes on begins at what is saved."""
        super().on_train_start(trainer, pl_module)
        self._saved_at = trainer.global_step

    def _save_last_checkpoint(self, trainer: Any, monitor_candidates: dict) -> None:
        super()._save_last_checkpoint(trainer, monitor_candidates)
        self._saved_at = trainer.global_step

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Save what was trained since."""
        if self.save_last and self._saved_at != trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        super().on_train_end(trainer, pl_module)
