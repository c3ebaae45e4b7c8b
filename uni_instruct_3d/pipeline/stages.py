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
#: --keep: stages of an edit of a finished asset. The first of them starts from the asset's own and follows it (DDS), by
#: configs/edits/<stage>.yaml over its configuration; the others are as ever.
EDITED = {"geometry": ("texture",), "nothing": ("nerf", "geometry", "texture")}
# Config sets: prefixes of their files in configs/; a stage takes the first that has a file for it. A multi-view teacher
# makes the NeRF, mesh and texture are made with a single-view one.
CONFIG_SETS = {
    "shapes": ("shapes",),
    "shapes128": ("shapes128",),
    "shapes-mv": ("shapes-mv", "shapes128"),
    "sd21": ("uni-instruct",),
    "mvdream": ("uni-instruct-mv", "uni-instruct"),
}
#: What a prompt is made with where nothing else is said.
DEFAULT_SET = "shapes-mv"
#: --quality: what it means. A quality is a folder configs/presets/<config set>-<quality>; normal is what the files say.
QUALITIES = {
    "fast": "half the steps: a sketch",
    "normal": "the configuration as it is",
    "high": "twice the steps, a larger texture",
}


def quality_files(config_set: str, quality: str) -> dict[str, Path]:
    """Stage -> YAML file of a quality.

    Raises:
        ValueError: the config set has none of that name.
    """
    if quality == "normal":
        return {}
    folder = ROOT / "configs" / "presets" / f"{config_set}-{quality}"
    if not folder.is_dir():
        made = [name for name in QUALITIES if (folder.parent / f"{config_set}-{name}").is_dir()]
        raise ValueError(f"quality {quality} is not made for {config_set}; choices: {', '.join([*made, 'normal'])}")
    return {path.stem: path for path in folder.glob("*.yaml")}


def stage_file(stage: Stage, config_set: str) -> Path:
    """The YAML file of a stage in a config set."""
    files = [ROOT / "configs" / stage.config.format(set=prefix) for prefix in CONFIG_SETS[config_set]]
    return next((path for path in files if path.is_file()), files[-1])


def config_files(stage: Stage, config_set: str, method: str | None, quality: str = "normal") -> list[Path]:
    """YAML files of a stage, later ones over earlier ones: stage, method, quality.

    Geometry is refined with SDS whatever the method, as in the paper.
    """
    files = [stage_file(stage, config_set)]
    if method and stage.name != "geometry":
        files.append(ROOT / "configs" / "methods" / f"{method}.yaml")
    overlay = quality_files(config_set, quality).get(stage.name)
    return files + ([overlay] if overlay else [])


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
