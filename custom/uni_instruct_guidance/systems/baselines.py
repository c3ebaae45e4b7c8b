"""threestudio's systems of two baselines, with a guidance that has a state of its own; in either host."""

from __future__ import annotations

from dataclasses import dataclass

import threestudio
from threestudio.systems.fantasia3d import Fantasia3D
from threestudio.systems.magic3d import Magic3D

from .guided import GuidanceWhileTraining


@threestudio.register("uni-instruct-magic3d-system")
class UniInstructMagic3D(GuidanceWhileTraining, Magic3D):
    """``magic3d-system`` (arXiv 2211.10440) that goes on from a checkpoint with any guidance."""

    @dataclass
    class Config(Magic3D.Config):
        """Fields as in magic3d-system."""

    cfg: Config

    def on_fit_start(self) -> None:
        """Not threestudio proper's, which would build the guidance once more, behind the checkpoint."""
        super(Magic3D, self).on_fit_start()


@threestudio.register("uni-instruct-fantasia3d-system")
class UniInstructFantasia3D(GuidanceWhileTraining, Fantasia3D):
    """``fantasia3d-system`` (arXiv 2303.13873) that goes on from a checkpoint with any guidance, and with its shape."""

    @dataclass
    class Config(Fantasia3D.Config):
        """Fields as in fantasia3d-system."""

    cfg: Config

    def on_fit_start(self) -> None:
        """A new geometry takes its first shape; threestudio proper's would give it to a resumed one too."""
        super(Fantasia3D, self).on_fit_start()
        if not self.cfg.texture and not self.resumed:
            self.geometry.initialize_shape()
