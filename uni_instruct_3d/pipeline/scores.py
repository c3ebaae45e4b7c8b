"""What a finished run is worth, by the same scorers as in comparisons."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from . import folder as on_disk
from .stages import STAGES

if TYPE_CHECKING:
    from .run import Run

SCORES = "scores.json"
#: Stage -> what its result counts as.
BACKBONES = {"nerf": "nerf", "geometry": "mesh", "texture": "mesh"}


def score_run(run: Run) -> dict[str, float]:
    """Scores of the last finished stage, also left as scores.json in the run's folder; made once.

    Raises:
        ValueError: no stage is finished.
    """
    finished = [stage.name for stage in STAGES if run.job(stage.name).done]
    if not finished:
        raise ValueError(f"{run.folder}: no stage is finished")
    path, stage = run.folder / SCORES, finished[-1]
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("stage", None) == stage:
            return content
    from ..comparison.assets import Trained
    from ..comparison.matrix import Plan
    from ..comparison.scores import score
    from ..comparison.stages import prepare
    from .stage_runner import logged

    with logged(run.folder / on_disk.LOG):
        prepare(run.settings.device == "cpu")
        asset, prompt = Trained(run.folder / stage), " ".join(run.settings.prompt.split())
        picture = run.folder / stage / "scored.jpg"
        scores = score(asset, BACKBONES[stage], prompt, (), Plan(out=run.folder), picture)
    on_disk.write_json(path, {"stage": stage, **scores})
    return scores
