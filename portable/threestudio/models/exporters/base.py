"""What every exporter offers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import threestudio
from threestudio.models.background.base import BaseBackground
from threestudio.models.geometry.base import BaseGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.utils.base import BaseObject


@dataclass
class ExporterOutput:
    """One thing to save: ``saver.save_<save_type>(<export folder>/<save_name>, **params)``."""

    save_name: str
    save_type: str
    params: dict[str, Any] = field(default_factory=dict)


class Exporter(BaseObject):
    """Turns geometry, material and background into things to save.

    Args of :class:`Config`:
        save_video: the system also renders the turntable.
    """

    @dataclass
    class Config(BaseObject.Config):
        save_video: bool = False

    cfg: Config

    def configure(self, geometry: BaseGeometry, material: BaseMaterial, background: BaseBackground) -> None:
        self.geometry, self.material, self.background = geometry, material, background

    def __call__(self) -> list[ExporterOutput]:
        """Everything there is to save."""
        raise TypeError(f"{type(self).__name__} exports nothing")


@threestudio.register("dummy-exporter")
class DummyExporter(Exporter):
    """Exports nothing, for runs that only want the turntable."""

    def __call__(self) -> list[ExporterOutput]:
        return []
