"""``dreamfusion-system``: a NeRF by score distillation (arXiv 2209.14988)."""

from __future__ import annotations

from dataclasses import dataclass

from threestudio import register
from threestudio.systems.text_to_3d import TextTo3DSystem


@register("dreamfusion-system")
class DreamFusion(TextTo3DSystem):
    """One stage; regularisers orient, sparsity, opaque, z_variance and eikonal."""

    @dataclass
    class Config(TextTo3DSystem.Config):
        """Fields as in BaseLift3DSystem."""

    cfg: Config

    regularisers = ("orient", "sparsity", "opaque", "z_variance", "eikonal")
