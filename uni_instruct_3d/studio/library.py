"""What lies below the outputs folder: runs of the pipeline, whoever started them, and single trials of launch.py.

Nothing that a browser sends becomes a path: names are looked up among those that were found, files among those of an
item.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..pipeline.folder import LOG, RUN, Progress, read_progress
from ..pipeline.run import Run
from ..pipeline.scores import SCORES
from ..pipeline.settings import Settings

#: Folders below the outputs folder in which runs are looked for.
DEPTH = 3
#: Seconds for which a listing holds.
FRESH = 0.5
ZIP = "model-obj.zip"


@dataclass(frozen=True)
class Item:
    """Something that was made, or is being made. name: path below the outputs folder, with slashes."""

    name: str
    folder: Path

    is_run = False

    @property
    def title(self) -> str:
        """The prompt, or the name where there is none."""
        return self.name

    @property
    def picture(self) -> Path | None:
        """The newest one."""
        pictures = list((self.folder / "save").glob("it*-*.png"))
        return max(pictures, key=_changed, default=None)

    @property
    def files(self) -> dict[str, Path]:
        """What may be looked at and taken away, by name."""
        from ..report import read_stage

        stage = read_stage(self.folder)
        found = {path.name: path for path in stage.files}
        if stage.turntable:
            found["turntable" + stage.turntable.suffix] = stage.turntable
        if self.picture:
            found["preview.png"] = self.picture
        return found

    @property
    def changed(self) -> float:
        """Seconds since 1970 when something last happened."""
        return max(_changed(self.folder), _changed(self.folder / "save"))


class RunItem(Item):
    """A run of the pipeline."""

    is_run = True

    @cached_property
    def run(self) -> Run:
        """Raises ValueError where run.json cannot be read."""
        return Run.open(self.folder)

    @property
    def settings(self) -> Settings:
        """Raises ValueError where run.json cannot be read."""
        return self.run.settings

    @property
    def title(self) -> str:
        try:
            return " ".join(self.settings.prompt.split())
        except ValueError:
            return self.name

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return read_progress(self.folder)

    @property
    def picture(self) -> Path | None:
        path = self.folder / "preview.png"
        return path if path.is_file() else None

    @property
    def files(self) -> dict[str, Path]:
        from ..pipeline.results import top_files

        found = top_files(self.folder)
        log = self.folder / LOG
        return {**found, **({LOG: log} if log.is_file() else {})}

    @property
    def scores(self) -> dict[str, float]:
        """By name; empty before the run was scored."""
        try:
            content = json.loads((self.folder / SCORES).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {key: value for key, value in content.items() if isinstance(value, int | float)}

    @property
    def changed(self) -> float:
        return max(_changed(self.folder / RUN), self.progress.updated)


class Library:
    """Items below `out`, newest first."""

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self._found: dict[str, Item] = {}
        self._when = float("-inf")

    def items(self) -> list[Item]:
        """All of them, newest first."""
        return sorted(self._scan().values(), key=lambda item: item.changed, reverse=True)

    def find(self, name: str) -> Item:
        """The item of that name. Raises ValueError where there is none."""
        item = self._scan().get(name) or self._scan(anew=True).get(name)
        if item is None:
            raise ValueError(f"there is no run of that name in {self.out.name}")
        return item

    def file(self, name: str, file: str) -> Path:
        """A file of an item. Raises ValueError where there is none, or where it is a link out of the outputs folder."""
        path = self.find(name).files.get(file)
        if path is None or not path.resolve().is_relative_to(self.out):
            raise ValueError(f"there is no file of that name in {name}")
        return path

    def forget(self) -> None:
        """Look anew the next time."""
        self._when = float("-inf")

    def _scan(self, anew: bool = False) -> dict[str, Item]:
        if anew or time.monotonic() - self._when > FRESH:
            self._found, self._when = dict(self._walk()), time.monotonic()
        return self._found

    def _walk(self):
        for place, folders, files in os.walk(self.out):  # links are not followed
            path = Path(place)
            name = path.relative_to(self.out).as_posix()
            folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
            kind = RunItem if RUN in files else Item if (path / "configs" / "parsed.yaml").is_file() else None
            if kind is not None and name != ".":
                yield name, kind(name, path)
            if kind is not None or name.count("/") >= DEPTH - 1:
                folders.clear()


def obj_zip(files: dict[str, Path]) -> bytes:
    """model.obj with its material and textures; empty where there is no model.obj."""
    if "model.obj" not in files:
        return b""
    chosen = [name for name in files if name in ("model.obj", "model.mtl") or name.startswith("texture_")]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in chosen:
            archive.write(files[name], name)
    return packed.getvalue()


def losses(trial: Path, most: int = 240) -> dict[str, list[tuple[int, float]]]:
    """Curves of a trial's losses, `most` points each at most; a run that went on has several logs."""
    from ..report.collect import read_curves

    try:
        curves = read_curves(trial / "csv_logs")
    except (OSError, csv.Error, UnicodeDecodeError):  # it is being written
        return {}
    chosen = {name.removeprefix("train/"): curve for name, curve in curves.items() if name.startswith("train/loss")}
    return {name: curve[:: -(-len(curve) // most)] for name, curve in chosen.items() if len(curve) > 1}


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
