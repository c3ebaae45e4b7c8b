"""``magic3d-system``: a NeRF, then a mesh that starts from it, both by score distillation (arXiv 2211.10440)."""

from __future__ import annotations

from dataclasses import dataclass

from threestudio import register
from threestudio.systems.text_to_3d import TextTo3DSystem


@register("magic3d-system")
class Magic3D(TextTo3DSystem):
    """Coarse stage on a NeRF; with ``refinement`` the fine stage on a mesh, whose normals are kept smooth."""

    @dataclass
    class Config(TextTo3DSystem.Config):
        """Fields as in BaseLift3DSystem, and this."""

        refinement: bool = False

    cfg: Config

    def configure(self) -> None:
        self.regularisers = ("normal_consistency",) if self.cfg.refinement else ("orient", "sparsity", "opaque")
        super().configure()
