"""threestudio's lit material with a light of our own beside it, in either host."""

from __future__ import annotations

from dataclasses import dataclass

import threestudio
from threestudio.models.materials.pbr_material import PBRMaterial

from ..core.files import found

#: A white picture, 1 everywhere: the soft light from all around in the built-in teacher's world.
EVEN = "load/lights/even.hdr"


@threestudio.register("uni-instruct-pbr-material")
class UniInstructPBRMaterial(PBRMaterial):
    """``pbr-material`` whose light is found from the working folder or in the project, whichever host runs.

    Args of :class:`Config` beyond the stock ones:
        environment_texture: Radiance .hdr picture; :data:`EVEN` if none is given.
    """

    @dataclass
    class Config(PBRMaterial.Config):
        environment_texture: str = EVEN

    cfg: Config

    def configure(self) -> None:
        self.cfg.environment_texture = str(found(self.cfg.environment_texture))
        super().configure()
