"""What a run is made of, as plain data: two runs of equal settings are the same run."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .stages import CONFIG_SETS, DEFAULT_SET, EDITED, QUALITIES, STAGES, methods, quality_files

FORMATS = ("glb", "obj", "ply", "stl")
UP = ("y", "z")
HOSTS = ("builtin", "threestudio")
LONGEST_PROMPT = 2000
ALL_STAGES = tuple(stage.name for stage in STAGES)


@dataclass(frozen=True)
class Files:
    """What is written at the end; another choice writes the files again and trains nothing.

    formats: of :data:`FORMATS`. up: axis of .obj that points up (.glb is always y up, .ply and .stl z up).
    texture_size: side in texels; None: that of the configuration. faces: at most so many; None: as they come.
    """

    formats: tuple[str, ...] = ("glb", "obj")
    up: str = "y"
    texture_size: int | None = None
    faces: int | None = None

    def __post_init__(self) -> None:
        _choose("formats", self.formats, FORMATS)
        _choose("up", (self.up,), UP)
        for key, least in (("texture_size", 16), ("faces", 4)):
            value = getattr(self, key)
            if value is not None and not (isinstance(value, int) and least <= value <= 2**24):
                raise ValueError(f"{key}={value} must be a whole number from {least} to {2**24}")
        if self.texture_size is not None and self.texture_size > 8192:
            raise ValueError(f"texture_size={self.texture_size} must be at most 8192")


@dataclass(frozen=True)
class Settings:
    """Settings of one run.

    Args:
        prompt: what to make.
        seed: of everything random.
        method: overlay of configs/methods for NeRF and texture; None: that of the configuration.
        config_set: key of stages.CONFIG_SETS, teacher and sizes. quality: key of stages.QUALITIES.
        overrides: ``key=value`` for every stage.
        stages: names, in order; which of them are run, not what they are.
        files: what is written at the end.
        device: ``auto``, ``cpu`` or GPU indices as 0 or 0,1. host: one of :data:`HOSTS`.
        processes: every stage in a process of its own.
        edit: folder of the finished run that this one is an edit of; None: made from nothing. keep: key of
            stages.EDITED, what of it stays as it is.

    Raises:
        ValueError: names the field, its value and the choices.
    """

    prompt: str
    seed: int = 0
    method: str | None = None
    config_set: str = DEFAULT_SET
    quality: str = "normal"
    overrides: tuple[str, ...] = ()
    stages: tuple[str, ...] = ALL_STAGES
    files: Files = field(default_factory=Files)
    device: str = "auto"
    host: str = "builtin"
    processes: bool = False
    edit: str | None = None
    keep: str = "geometry"

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise ValueError('the prompt is empty; say what to make, e.g. "a red mug"')
        if len(self.prompt) > LONGEST_PROMPT:
            raise ValueError(f"a prompt has at most {LONGEST_PROMPT} characters; this one has {len(self.prompt)}")
        if not (isinstance(self.seed, int) and 0 <= self.seed < 2**32):
            raise ValueError(f"seed={self.seed!r} must be a whole number from 0 to {2**32 - 1}")
        if self.method is not None:
            _choose("method", (self.method,), methods())
        _choose("config_set", (self.config_set,), CONFIG_SETS)
        _choose("quality", (self.quality,), QUALITIES)
        quality_files(self.config_set, self.quality)
        _choose("stages", self.stages, [stage.name for stage in STAGES])
        _choose("host", (self.host,), HOSTS)
        if not re.fullmatch(r"auto|cpu|\d+(,\d+)*", self.device):
            raise ValueError(f"device={self.device!r} must be auto, cpu, or GPU indices as 0 or 0,1")
        for override in self.overrides:
            if "=" not in override:
                raise ValueError(f"{override!r} is not of the form key=value")
        _choose("keep", (self.keep,), EDITED)
        if self.edit is not None:
            if self.stages == ALL_STAGES:
                object.__setattr__(self, "stages", EDITED[self.keep])
            self._check_edit()

    def _check_edit(self) -> None:
        """An edit is a delta denoising of what is there: nothing of it is up to these settings."""
        for key, only in (("method", None), ("quality", "normal"), ("host", "builtin")):
            if getattr(self, key) != only:
                raise ValueError(f"{key}={getattr(self, key)} cannot be chosen for an edit; it is {only or 'dds'}")
        wrong = [stage for stage in self.stages if stage not in EDITED[self.keep]]
        if wrong:
            raise ValueError(f"an edit that keeps {self.keep} has no stage {wrong[0]}; {', '.join(EDITED[self.keep])}")

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result of training: runs that differ here must not share a folder."""
        return {key: value for key, value in self.as_json().items() if key in IDENTITY}

    def differences(self, other: Settings) -> list[str]:
        """``key: theirs -> mine`` for everything that decides the result."""
        mine, theirs = self.identity, other.identity
        return [f"{key}: {theirs[key]} -> {mine[key]}" for key in mine if mine[key] != theirs[key]]

    def as_json(self) -> dict[str, Any]:
        """Plain lists and dicts; :meth:`from_json` takes them back."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Settings:
        """Of :meth:`as_json`; what a later version added keeps its default. Raises ValueError, TypeError, KeyError."""
        known = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        for key in ("overrides", "stages"):
            known[key] = tuple(known[key])
        files = {f.name: known["files"][f.name] for f in fields(Files) if f.name in known["files"]}
        known["files"] = Files(**{**files, "formats": tuple(files["formats"])})
        return cls(**known)


IDENTITY = ("prompt", "seed", "method", "config_set", "quality", "overrides", "edit", "keep")


def _choose(key: str, values: Any, choices: Any) -> None:
    wrong = [str(value) for value in values if value not in choices]
    if wrong or not values:
        raise ValueError(f"{key} {','.join(wrong) or '(none)'}; choices: {', '.join(choices)}")
