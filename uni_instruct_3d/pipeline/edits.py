"""Edits of a finished asset: where they start, and before and after side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import ROOT
from . import folder as on_disk
from .stages import EDITED, STAGES, Stage

if TYPE_CHECKING:
    from .settings import Settings
    from .stage_runner import StageJob

#: Views of the comparison, and the side of each in pixels.
VIEWS, SIDE = 8, 192
BESIDE = "before_after.png"


@dataclass(frozen=True)
class Source:
    """The run that an edit starts from: its folder, settings, and the trial of the stage that is edited."""

    folder: Path
    settings: Settings
    trial: Path

    @property
    def checkpoint(self) -> Path:
        """The newest one of that stage."""
        return self.trial / "ckpts" / "last.ckpt"


def source_of(folder: str | Path, keep: str) -> Source:
    """The finished run in a folder, as the start of an edit.

    Raises:
        ValueError: no run, or its stage that would be edited is not finished.
    """
    folder = Path(folder).expanduser().resolve()
    if not folder.is_dir():
        raise ValueError(f"edit {folder}: no such folder; give that of a finished run")
    settings, stage = on_disk.read_settings(folder), EDITED[keep][0]
    source = Source(folder, settings, folder / stage)
    if not ((source.trial / "done").is_file() and source.checkpoint.is_file()):
        finished = [row.name for row in STAGES if (folder / row.name / "done").is_file()]
        raise ValueError(
            f"edit {folder}: an edit that keeps {keep} starts from its stage {stage}, which is not finished; finished: "
            f"{', '.join(finished) or 'none'}"
        )
    return source


def edit_job(stage: Stage, folder: Path, settings: Settings) -> StageJob:
    """The edited stage as the runner takes it: the source's configuration and weights, the edit's on top."""
    from .stage_runner import StageJob

    trial = Path(settings.edit) / stage.name
    start = Stage(stage.name, stage.config, starts_from=stage.starts_from)  # after no stage of this run
    given = (
        f"system.weights={trial / 'ckpts' / 'last.ckpt'}", f"system.reference={trial}",
        "system.geometry_convert_from=null",
    )  # fmt: skip
    configs = (trial / "configs" / "parsed.yaml", ROOT / "configs" / "edits" / f"{stage.name}.yaml")
    return StageJob(
        stage=start, folder=folder, configs=configs,
        prompt=settings.prompt, seed=settings.seed, log=folder / on_disk.LOG, overrides=(*given, *settings.overrides),
        device=settings.device,
    )  # fmt: skip


def last_trial(source: Source) -> Path:
    """The trial of the last stage that the source finished."""
    return [source.folder / row.name for row in STAGES if (source.folder / row.name / "done").is_file()][-1]


def write_beside(before: Any, after: Any, data: dict[str, Any], folder: Path) -> dict[str, float]:
    """Before (above) and after (below) from eight sides, as :data:`BESIDE`; what the edit did to the shape.

    Args:
        before, after: systems of finished stages. data: the block of the configuration, for its cameras.

    Returns:
        ``moved``: Chamfer distance between the surfaces in world units; ``outline``: intersection over union of the
        silhouettes, mean of the views; ``recoloured``: mean change of a colour channel (0..1) where either is seen.
    """
    import numpy as np
    from PIL import Image

    from threestudio.utils.files import atomic_path

    from ..world_metrics.shape import chamfer, silhouette_iou, surface_points
    from .pictures import around

    colours, masks, points = [], [], []
    for scene in (before, after):
        views = list(around(scene, data, VIEWS, SIDE))
        colours.append(np.stack([view["comp_rgb"][0].clamp(0, 1).float().cpu().numpy() for view in views]))
        masks.append(np.stack([view["opacity"][0, ..., 0].cpu().numpy() > 0.5 for view in views]))
        mesh = scene.geometry.isosurface()
        points.append(surface_points(mesh.v_pos.detach().cpu().numpy(), mesh.t_pos_idx.cpu().numpy(), 8000))
    rows = [np.concatenate(list((255 * row + 0.5).astype(np.uint8)), axis=1) for row in colours]
    with atomic_path(folder / BESIDE) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary)
    seen = masks[0] | masks[1]
    change = float(np.abs(colours[1] - colours[0])[seen].mean()) if seen.any() else math.nan
    return {"moved": chamfer(*points), "outline": silhouette_iou(*masks), "recoloured": change}


#: Facts in words, for the report.
WORDS = {
    "moved": "Chamfer distance to the asset before the edit",
    "outline": "agreement of its silhouettes with those before (IoU)",
    "recoloured": "mean change of a colour channel, 0 to 1",
}
