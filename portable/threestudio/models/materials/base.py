"""What every material offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from threestudio.utils.base import BaseModule
from threestudio.utils.typing import Float, Tensor


class BaseMaterial(BaseModule):
    """Turns a geometry's features into colours."""

    @dataclass
    class Config(BaseModule.Config):
        pass

    cfg: Config

    #: Whether ``shading_normal`` (or ``tangent``) must be among the inputs.
    requires_normal: bool = False
    requires_tangent: bool = False

    def forward(self, features: Float[Tensor, "*B Nf"], **kwargs) -> Float[Tensor, "*B Nc"]:
        """Colours at points whose features, positions, normals… are given."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def export(self, features: Float[Tensor, "*B Nf"], **kwargs) -> dict[str, Any]:
        """Texture channels (``albedo``…) for the exporter."""
        return {}
