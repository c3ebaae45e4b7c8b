"""One cell of the matrix: train its stages, score what came out, leave one small file behind."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .matrix import GROUND_TRUTH, Cell, Plan
from .rungs import RUNGS

if TYPE_CHECKING:
    from .assets import Asset

RESULT = "result.json"


@dataclass(frozen=True)
class CellRunner:
    """What a worker does with a cell; torch and the rest are imported once per worker.

    Args:
        plan: what all cells share. teachers: digest of the weights by config set. prompts: all of the comparison's.
    """

    plan: Plan
    teachers: dict[str, str]
    prompts: tuple[str, ...]

    def teacher(self, cell: Cell) -> str:
        """Digest of the teachers of a cell's stages."""
        return self.teachers[self.plan.set_of(cell.column)]

    def __call__(self, cell: Cell) -> dict[str, Any]:
        """The cell's result, also left as result.json in its folder.

        ``status`` done or failed, ``reason``; ``scores``: by backbone, of what was reached; ``cost``: by stage;
        ``pictures``: by backbone; ``seconds``, ``cpu_seconds``: of the whole cell, scoring included. A failed stage is
        a result; other errors are raised.
        """
        import torch

        from uni_instruct_guidance.core.errors import choose

        from .stages import StageError, prepare

        for backbone in self.plan.backbones:
            choose("backbone", backbone, RUNGS)
        torch.set_num_threads(self.plan.threads)
        prepare(self.plan.cpu)
        folder, start = self.plan.out / cell.folder, (time.perf_counter(), time.process_time())
        self._make_room(cell, folder)
        result: dict[str, Any] = {"status": "done", "reason": "", "scores": {}, "cost": {}, "pictures": {}}
        try:
            if cell.column.method == GROUND_TRUTH:
                self._show_truth(cell, result)
            else:
                self._train(cell, folder, result)
        except StageError as error:
            result |= {"status": "failed", "reason": str(error)}
        result["seconds"] = time.perf_counter() - start[0]
        result["cpu_seconds"] = time.process_time() - start[1]
        self._finish(cell, folder, result)
        return result

    def _make_room(self, cell: Cell, folder: Path) -> None:
        """Keep what an earlier run of the same settings left; anything else in the folder goes."""
        key = self.plan.key(cell, self.teacher(cell))
        mark = folder / "key"
        if folder.is_dir() and not (mark.is_file() and mark.read_text() == key):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(key)

    def _train(self, cell: Cell, folder: Path, result: dict[str, Any]) -> None:
        from .assets import Trained
        from .stages import run_stage

        for stage in self.plan.stages_of(cell.column):
            result["cost"][stage.name] = run_stage(stage, cell, self.plan, folder)
            for backbone in self.plan.backbones:
                if RUNGS[backbone].stage == stage.name:
                    self._score(cell, Trained(RUNGS[backbone].scene(folder)), backbone, result)

    def _show_truth(self, cell: Cell, result: dict[str, Any]) -> None:
        from .assets import WorldObject
        from .scores import asked_by
        from .stages import StageError

        try:
            asset = WorldObject(asked_by(cell.prompt), cell.seed)
        except ValueError as error:
            raise StageError(f"{GROUND_TRUTH}: {error}") from error
        for backbone in self.plan.backbones:
            self._score(cell, asset, backbone, result)

    def _score(self, cell: Cell, asset: Asset, backbone: str, result: dict[str, Any]) -> None:
        from .scores import score

        picture = self.plan.out / cell.folder / f"{backbone}.jpg"
        result["scores"][backbone] = score(asset, backbone, cell.prompt, self.prompts, self.plan, picture)
        result["pictures"][backbone] = str(picture.relative_to(self.plan.out))

    def _finish(self, cell: Cell, folder: Path, result: dict[str, Any]) -> None:
        from threestudio.utils.files import atomic_path

        identity = {"key": self.plan.key(cell, self.teacher(cell)), "column": cell.column.label, "prompt": cell.prompt}
        with atomic_path(folder / RESULT) as temporary:
            temporary.write_text(json.dumps(identity | {"seed": cell.seed} | result, indent=2) + "\n")
        if result["status"] == "done" and not self.plan.keep:
            for trial in (path for path in folder.iterdir() if path.is_dir()):
                for name in ("ckpts", "save", "tb_logs"):
                    shutil.rmtree(trial / name, ignore_errors=True)


def failed(reason: str) -> dict[str, Any]:
    """The result of a cell that left none itself."""
    return {"status": "failed", "reason": reason, "scores": {}, "cost": {}, "pictures": {}, "seconds": 0.0}


def read_result(plan: Plan, cell: Cell, teacher: str) -> dict[str, Any] | None:
    """What this very cell left behind in an earlier run; None where there is nothing, or of other settings."""
    path = plan.out / cell.folder / RESULT
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    return result if result["key"] == plan.key(cell, teacher) else None
