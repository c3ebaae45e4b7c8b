"""The rungs of the ladder from a prompt to a textured mesh: what of a run is scored, and where on the way it stands."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

#: Beside last.ckpt in ckpts/: the scene as it stood before the first step.
START = "start.ckpt"


class Rung(NamedTuple):
    """stage: whose result it is. title: for tables. start: as the stage found it, before its first step."""

    stage: str
    title: str
    start: bool = False

    @property
    def is_mesh(self) -> bool:
        """It has a surface; a NeRF has one only after its conversion."""
        return self.stage != "nerf"

    def scene(self, folder: Path) -> Path:
        """What is loaded: trial or checkpoint, below a cell's folder."""
        trial = folder / self.stage
        return trial / "ckpts" / START if self.start else trial


#: Names of --backbones. The paper's tables have the first and the last.
RUNGS = {
    "nerf": Rung("nerf", "NeRF"),
    "converted": Rung("geometry", "Mesh as converted", start=True),
    "refined": Rung("geometry", "Mesh, refined"),
    "mesh": Rung("texture", "Mesh"),
}
DEFAULT = ("nerf", "mesh")
