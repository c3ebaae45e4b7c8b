"""The end of a run: mesh files, turntable, preview and report at the top of its folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from .events import Listener
from .stages import STAGES

if TYPE_CHECKING:
    from .run import Run


def finish(run: Run, tell: Listener) -> None:
    """Export the mesh of the last finished stage and write the report over all of them."""
    from ..report import read_stage, write_report
    from .stage_runner import export

    finished = [stage.name for stage in STAGES if run.job(stage.name).done]
    job = run.job(finished[-1])
    export(job, ())
    stage = read_stage(job.trial)
    for path in [*stage.files, *([stage.turntable] if stage.turntable else [])]:
        _copy(path, run.folder / (path.name if path in stage.files else f"turntable{path.suffix}"))
    title = " ".join(run.settings.prompt.split())
    write_report([read_stage(run.folder / name) for name in finished], run.folder / "report.html", title=title)


def _copy(source: Path, target: Path) -> None:
    from threestudio.utils.files import atomic_path

    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
