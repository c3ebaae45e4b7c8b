"""What a trial folder holds, read without the code that wrote it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

Curve = list[tuple[int, float]]


@dataclass
class StageResult:
    """One stage of a run.

    Attributes:
        name: heading in the report.
        settings: text of configs/parsed.yaml.
        prompt: the prompt in it.
        curves: logged value by name: (step, value) pairs; not-a-number values are left out.
        pictures: the last validation pictures, newest step only.
        turntable: .mp4, .webm or .gif, newest step.
        meshes: exported .glb files, newest step.
        files: everything exported, newest step.
        seconds: training time, None if unknown.
        scores: score by name, from scores.json.
    """

    name: str
    settings: str = ""
    prompt: str = ""
    curves: dict[str, Curve] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    turntable: Path | None = None
    meshes: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    seconds: float | None = None
    scores: dict[str, float] = field(default_factory=dict)


def read_stage(trial_dir: str | Path, name: str | None = None) -> StageResult:
    """Read a trial folder; whatever is missing stays empty.

    Args:
        name: heading; the folder's own name by default.

    Raises:
        ValueError: no such folder, or a file in it that is damaged (named).
    """
    folder = Path(trial_dir)
    if not folder.is_dir():
        raise ValueError(f"no such trial folder: {folder}")
    save = folder / "save"
    exported = _newest(save.glob("it*-export"))
    files = sorted(path for path in exported[0].rglob("*") if path.is_file()) if exported else []
    settings = folder / "configs" / "parsed.yaml"
    text = _text(settings) if settings.is_file() else ""
    videos = _newest(path for suffix in (".mp4", ".webm", ".gif") for path in save.glob(f"it*-test{suffix}"))
    return StageResult(
        name=name or folder.resolve().name,
        settings=text,
        prompt=_prompt(text, settings),
        curves=read_curves(folder / "csv_logs"),
        pictures=sorted(_newest(save.glob("it*-*.png")))[:8],
        turntable=videos[0] if videos else None,
        meshes=[path for path in files if path.suffix == ".glb"],
        files=files,
        seconds=_seconds(folder),
        scores=_scores(folder),
    )


def read_curves(folder: Path) -> dict[str, Curve]:
    """Curves of Lightning's CSV logs; a resumed run has several versions, whose later steps replace earlier ones."""
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for path in sorted(folder.rglob("metrics.csv"), key=_version):
        for row in _rows(path):
            step = _number(row.pop("step", None))
            row.pop("epoch", None)
            for key, text in row.items():
                value = _number(text)
                if step is not None and value is not None and key is not None:
                    values[key][int(step)] = value
    return {key: sorted(points.items()) for key, points in values.items()}


def _rows(path: Path) -> list[dict]:
    try:
        return list(csv.DictReader(io.StringIO(_text(path), newline="")))
    except csv.Error as error:
        raise ValueError(f"{path}: cannot be read as CSV: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text: {error}") from error


def _version(path: Path) -> int:
    found = re.search(r"version_(\d+)", str(path))
    return int(found.group(1)) if found else -1


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _newest(paths: Callable | object) -> list[Path]:
    """Those whose name starts with the highest it<step>."""
    found: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        step = re.match(r"it(\d+)-", path.name)
        if step:
            found[int(step.group(1))].append(path)
    return sorted(found[max(found)]) if found else []


def _prompt(settings: str, path: Path) -> str:
    try:
        parsed = yaml.safe_load(settings) if settings else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as YAML: {error}") from error
    for key in ("system", "prompt_processor", "prompt"):
        parsed = parsed.get(key) if isinstance(parsed, dict) else None
    return parsed if isinstance(parsed, str) else ""


def _seconds(folder: Path) -> float | None:
    """Seconds in the file ``done`` that the pipeline leaves, which begins with their number."""
    done = folder / "done"
    found = re.match(r"\s*(\d+(?:\.\d+)?)", _text(done)) if done.is_file() else None
    return float(found.group(1)) if found else None


def _scores(folder: Path) -> dict[str, float]:
    path = folder / "scores.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold scores by name, got {type(content).__name__}")
    return {key: float(value) for key, value in content.items() if isinstance(value, (int, float))}
