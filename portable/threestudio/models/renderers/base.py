"""What every renderer offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from threestudio.models.background.base import BaseBackground
from threestudio.models.geometry.base import BaseGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.utils.base import BaseModule
from threestudio.utils.typing import Any, Float, Tensor


class Scene(NamedTuple):
    """What is rendered. A tuple hides its modules from torch, so that they stay the system's and are saved once."""

    geometry: BaseGeometry
    material: BaseMaterial
    background: BaseBackground


class Renderer(BaseModule):
    """Draws geometry, material and background in the box [-radius, radius]^3."""

    @dataclass
    class Config(BaseModule.Config):
        radius: float = 1.0

    cfg: Config

    def configure(self, geometry: BaseGeometry, material: BaseMaterial, background: BaseBackground) -> None:
        self._scene = Scene(geometry, material, background)
        radius = self.cfg.radius
        self.bbox: Float[Tensor, "2 3"]
        self.register_buffer("bbox", torch.tensor([[-radius] * 3, [radius] * 3], dtype=torch.float32))

    def forward(self, *args, **kwargs) -> dict[str, Any]:
        """Images as a dict of [B, H, W, C] tensors, ``comp_rgb`` and ``opacity`` among them."""
        raise TypeError(f"{type(self).__name__} has no forward")

    @property
    def geometry(self) -> BaseGeometry:
        return self._scene.geometry

    @property
    def material(self) -> BaseMaterial:
        return self._scene.material

    @property
    def background(self) -> BaseBackground:
        return self._scene.background

    def set_geometry(self, geometry: BaseGeometry) -> None:
        """Render another geometry from now on."""
        self._scene = self._scene._replace(geometry=geometry)

    def set_material(self, material: BaseMaterial) -> None:
        """Render with another material from now on."""
        self._scene = self._scene._replace(material=material)

    def set_background(self, background: BaseBackground) -> None:
        """Render before another background from now on."""
        self._scene = self._scene._replace(background=background)


class VolumeRenderer(Renderer):
    """Renderer that integrates along rays."""


class Rasterizer(Renderer):
    """Renderer that projects triangles; ``forward(mvp_mtx, camera_positions, light_positions, height, width, ...)``."""
