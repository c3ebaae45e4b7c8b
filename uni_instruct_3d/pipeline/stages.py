"""The stages from a prompt to a textured mesh, their files, and the names of a run's folders."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from .. import ROOT


@dataclass(frozen=True)
class Stage:
    """One run of launch.py.

    config: file name with {set} for the config set.
    after: the stage whose last checkpoint this one starts from, and the key that takes it.
    """

    name: str
    config: str
    after: str | None = None
    starts_from: str = "system.geometry_convert_from"


STAGES = [
    Stage("nerf", "{set}-nerf.yaml"),
    Stage("geometry", "{set}-geometry.yaml", after="nerf"),
    Stage("texture", "{set}-texture.yaml", after="geometry"),
]
# Config sets: prefix of the files in configs/.
CONFIG_SETS = {"shapes": "shapes", "sd21": "uni-instruct"}


def methods() -> list[str]:
    """Overlays that change nothing but the method."""
    return sorted(path.stem for path in (ROOT / "configs" / "methods").glob("*.yaml"))


def slug(prompt: str, limit: int = 60) -> str:
    """A folder name for any prompt: letters, digits and dashes; long ones end in a hash of the whole prompt."""
    name = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    if len(name) <= limit and name:
        return name
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:8]
    return f"{name[:limit].rstrip('-')}-{digest}" if name else f"prompt-{digest}"


def quoted(prompt: str) -> str:
    """A prompt as a YAML string, safe in OmegaConf's key=value syntax whatever it contains."""
    flat = " ".join(prompt.split())
    return '"' + flat.replace("\\", "\\\\").replace('"', '\\"') + '"'


def results(folder: Path) -> list[Path]:
    """What a person would open first: the latest turntable of each stage, exported assets, the report."""
    found = []
    for stage in STAGES:
        save = folder / stage.name / "save"
        found += sorted(save.glob("it*-test.mp4"), key=lambda p: p.stat().st_mtime)[-1:]
        found += sorted(path for path in save.glob("it*-export/*") if path.suffix in (".glb", ".obj"))
    return found + sorted(folder.glob("report.html"))
