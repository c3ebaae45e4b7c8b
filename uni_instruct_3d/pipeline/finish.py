"""The end of a run: mesh files, turntable, preview, checks and report at the top of its folder; made once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import folder as on_disk
from .events import Listener, Note, StageError
from .results import clear, top_files
from .stages import STAGES, slug

if TYPE_CHECKING:
    from .run import Run

#: What the files at the top were made from.
MADE = "made.json"


def finish(run: Run, tell: Listener) -> None:
    """Write what is not there yet, of the last finished stage.

    Raises:
        StageError: no mesh could be written.
    """
    if is_made(run):
        for text in _read(run.folder / MADE)["complaints"]:
            tell(Note(text))
        return
    finished = _finished(run)
    clear(run.folder)
    write = _write if run.settings.host == "builtin" else _copy_of_host
    facts, complaints = write(run, finished)
    for text in complaints:
        tell(Note(text))
    _report(run, finished, facts, [*run.notes, *complaints])
    results = list(top_files(run.folder))
    told = {"facts": facts, "complaints": complaints, "results": results}
    on_disk.write_json(run.folder / MADE, {**_made_from(run, finished), **told})


def is_made(run: Run) -> bool:
    """Whether the files at the top are there, made from what is trained by now and as the settings want them."""
    finished, earlier = _finished(run), _read(run.folder / MADE)
    if not finished or not earlier:
        return False
    current = _made_from(run, finished)
    same = {key: earlier.get(key) for key in current} == current
    return same and all((run.folder / name).is_file() for name in earlier["results"])


def _finished(run: Run) -> list[str]:
    return [stage.name for stage in STAGES if run.job(stage.name).done]


def _made_from(run: Run, finished: list[str]) -> dict[str, Any]:
    trained = run.job(finished[-1]).checkpoint.stat().st_mtime_ns
    return {"stage": finished[-1], "trained": trained, "files": run.settings.as_json()["files"]}


def _write(run: Run, finished: list[str]) -> tuple[dict[str, float], list[str]]:
    """Files, pictures and checks, in this process."""
    from omegaconf import OmegaConf

    from threestudio.extensions import load_extensions
    from threestudio.utils.misc import set_device
    from uni_instruct_guidance.scoring.checkpoints import load_scene

    from .. import ROOT
    from .checks import complaints, measure
    from .edits import last_trial, source_of, write_beside
    from .mesh_files import write_mesh_files
    from .pictures import frames_of, write_pictures
    from .quiet import logged

    stage, last = finished[-1], run.job(finished[-1])
    with logged(last.log):
        if run.settings.device == "cpu":
            set_device("cpu")
        load_extensions([ROOT / "custom"])
        cfg: Any = OmegaConf.to_container(OmegaConf.load(last.trial / "configs" / "parsed.yaml"))
        grey = (0.95, 0.95, 0.95)
        try:
            scene = load_scene(last.trial, grey)
            write_mesh_files(scene, cfg["system"]["exporter"], run.settings.files, slug(last.prompt), run.folder)
        except ValueError as error:
            raise StageError(f"no mesh of {stage}: {error}") from error
        write_pictures(frames_of(scene, cfg["data"], stage), run.folder)
        nerf = scene if stage == "nerf" else load_scene(run.folder / "nerf", grey) if "nerf" in finished else None
        facts = measure(scene if stage != "nerf" else None, nerf, cfg["data"])
        if run.settings.edit is not None:
            before = load_scene(last_trial(source_of(run.settings.edit, run.settings.keep)), grey)
            facts |= write_beside(before, scene, cfg["data"], run.folder)
    return facts, [f"poor: {text}" for text in complaints(facts)]


def _copy_of_host(run: Run, finished: list[str]) -> tuple[dict[str, float], list[str]]:
    """Files of a host that only its own launcher can load."""
    from ..report import read_stage
    from .stage_runner import export

    job = run.job(finished[-1])
    export(job, run.settings.host)
    stage = read_stage(job.trial)
    for path in stage.files:
        _copy(path, run.folder / path.name)
    if stage.turntable:
        _copy(stage.turntable, run.folder / f"turntable{stage.turntable.suffix}")
    return {}, []


def _report(run: Run, finished: list[str], facts: dict[str, float], notes: list[str]) -> None:
    from ..report import read_stage, write_report
    from . import checks, edits

    words = checks.WORDS | edits.WORDS
    facts = {words[name]: value for name, value in facts.items()}
    title = " ".join(run.settings.prompt.split())
    stages = [read_stage(run.folder / name) for name in finished]
    top = top_files(run.folder)
    write_report(
        stages, run.folder / "report.html", title=title, notes=notes, facts=facts, mesh=top.get("model.glb"),
        turntable=top.get("turntable.mp4"),
        before_after=top.get("before_after.png"), files=list(top.values()),
    )  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _copy(source: Path, target: Path) -> None:
    from threestudio.utils.files import atomic_path

    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
