"""What lies at the top of a run's folder when it is done."""

from __future__ import annotations

from pathlib import Path

#: In the order in which a person would open them.
NAMES = (
    "report.html",
    "preview.png",
    "before_after.png",
    "turntable.mp4",
    "model.glb",
    "model.obj",
    "model.mtl",
    "model.ply",
    "model.stl",
)


def clear(folder: Path) -> None:
    """Take away what an earlier end of the run left; the preview stays, it is replaced."""
    for name, path in top_files(folder).items():
        if name != "preview.png":
            path.unlink(missing_ok=True)


def top_files(folder: Path) -> dict[str, Path]:
    """Results by name, those that are there; textures beside an .obj last."""
    textures = sorted(path.name for path in folder.glob("texture_*") if path.is_file())
    return {name: folder / name for name in [*NAMES, *textures] if (folder / name).is_file()}
