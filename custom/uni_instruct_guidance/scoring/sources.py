"""Whatever a user has (mesh file, checkpoint, trial, frames, video) as pictures to score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from threestudio.utils.misc import get_device

from .checkpoints import SUFFIXES as CHECKPOINTS
from .checkpoints import render_checkpoint
from .frames import VIDEOS, load_frames
from .meshes import UP_AXES, load_mesh
from .protocols import Protocol
from .rendering import Light, render_surface


@dataclass(frozen=True)
class Views:
    """Pictures of one object.

    pictures: 8-bit, sRGB. kind: mesh | checkpoint | frames. cameras: label of the protocol, `as given` for frames.
    notes: what a reader of the score should know.
    """

    path: Path
    pictures: UInt8[np.ndarray, "n H W 3"]
    kind: str
    cameras: str
    notes: tuple[str, ...] = ()


def load_views(
    path: str | Path,
    protocol: Protocol,
    light: Light | None = None,
    up: str | None = None,
    progress: bool = False,
) -> Views:
    """Pictures of a mesh file, a checkpoint or trial folder (rendered by the protocol), a folder of frames or a video.

    light, up: for mesh files, see `render_surface` and `load_mesh`. A checkpoint is lit by its own material.

    Raises:
        ValueError: one line naming the path and what is wrong with it.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    is_trial = (path / "configs" / "parsed.yaml").is_file() if path.is_dir() else path.suffix.lower() in CHECKPOINTS
    if is_trial:
        return Views(path, render_checkpoint(path, protocol, progress), "checkpoint", protocol.label)
    if path.is_dir() or path.suffix.lower() in VIDEOS:
        return Views(path, load_frames(path, protocol.background), "frames", "as given")
    if path.suffix.lower() in UP_AXES:
        return _mesh_views(path, protocol, light, up, progress)
    raise ValueError(
        f"{path}: {path.suffix or 'a file without suffix'} cannot be scored; give a mesh ({', '.join(UP_AXES)}), a "
        f"checkpoint ({', '.join(CHECKPOINTS)}) or trial folder, a folder of pictures, or a video ({', '.join(VIDEOS)})"
    )


def _mesh_views(path: Path, protocol: Protocol, light: Light | None, up: str | None, progress: bool) -> Views:
    surface = load_mesh(path, up)
    notes = () if surface.has_colour else ("the file has no colours: shown in grey",)
    pictures = render_surface(surface, protocol, light, get_device(), progress)
    if all((picture == picture[0, 0]).all() for picture in pictures):
        raise ValueError(f"{path}: no camera of {protocol.label} sees anything of it; its units may be others")
    return Views(path, pictures, "mesh", protocol.label, notes)
