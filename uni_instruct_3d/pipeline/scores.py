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
    stage, earlier = _last_stage(run), kept(run)
    if stage is None:
        raise ValueError(f"{run.folder}: no stage is finished")
    if earlier is not None:
        return earlier
    from ..comparison.assets import Trained
    from ..comparison.matrix import Plan
    from ..comparison.scores import score
    from ..comparison.stages import prepare
    from .quiet import logged

    with logged(run.folder / on_disk.LOG):
        prepare(run.settings.device == "cpu")
        asset, prompt = Trained(run.folder / stage), " ".join(run.settings.prompt.split())
        picture = run.folder / stage / "scored.jpg"
        scores = score(asset, BACKBONES[stage], prompt, (), Plan(out=run.folder), picture)
    on_disk.write_json(run.folder / SCORES, {"stage": stage, **scores})
    return scores


def kept(run: Run) -> dict[str, float] | None:
    """Scores that were made of the last finished stage; None where there are none."""
    try:
        content = json.loads((run.folder / SCORES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if content.pop("stage", None) == _last_stage(run) else None


def _last_stage(run: Run) -> str | None:
    finished = [stage.name for stage in STAGES if run.job(stage.name).done]
    return finished[-1] if finished else None
