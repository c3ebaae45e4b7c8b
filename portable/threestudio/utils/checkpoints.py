"""Checkpoints that are complete or absent, whenever the process dies."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from threestudio.utils.files import atomic_path
from threestudio.utils.misc import load_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the target, flush to the disk, then rename; read tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save a checkpoint.

        Raises:
            OSError: full disk, no permission; the file that was there is still whole.
        """
        # Serialised in memory first: torch reports a full disk as a RuntimeError without its number.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Load a checkpoint; a damaged one is a ValueError that names it."""
        return load_checkpoint(path, map_location or "cpu")


class ResumableCheckpoint(ModelCheckpoint):
    """Lightning's checkpoint callback, with ``last.ckpt`` always under that name.

    By default Lightning writes ``last-v1.ckpt`` when a resumed run finds the file of the run it continues.
    """

    def __init__(self, dirpath: str, **kwargs: Any) -> None:
        super().__init__(dirpath=dirpath, **{"enable_version_counter": False, **kwargs})

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Remove what a killed run left half-written."""
        super().setup(trainer, pl_module, stage)
        for leftover in Path(self.dirpath or ".").glob(".*.tmp.ckpt"):
            leftover.unlink(missing_ok=True)
