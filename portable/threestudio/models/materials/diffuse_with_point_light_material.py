"""Lambertian shading by a point light, sometimes without light or without colour (DreamFusion, arXiv 2209.14988)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

import threestudio
from threestudio.models.materials.base import BaseMaterial
from threestudio.utils.errors import UserError
from threestudio.utils.ops import dot, get_activation
from threestudio.utils.typing import Float, Tensor

#: ``shading`` -> colour from albedo and light.
SHADINGS = {
    "albedo": lambda albedo, light: albedo + 0 * light,
    "textureless": lambda albedo, light: 0 * albedo + light,
    "diffuse": lambda albedo, light: albedo * light,
}


@threestudio.register("diffuse-with-point-light-material")
class DiffuseWithPointLightMaterial(BaseMaterial):
    """albedo · (ambient + diffuse · max(0, n·l)).

    In training each call draws a shading: plain albedo for ``ambient_only_steps`` steps and with probability
    1 - ``diffuse_prob``, else a textureless white object with probability ``textureless_prob``, else the full model.
    ``soft_shading`` draws the diffuse share of the light too.
    """

    @dataclass
    class Config(BaseMaterial.Config):
        ambient_light_color: tuple[float, float, float] = (0.1, 0.1, 0.1)
        diffuse_light_color: tuple[float, float, float] = (0.9, 0.9, 0.9)
        ambient_only_steps: int = 1000
        diffuse_prob: float = 0.75
        textureless_prob: float = 0.5
        albedo_activation: str = "sigmoid"
        soft_shading: bool = False
        ambient_only_on_test: bool = False

    cfg: Config

    def configure(self) -> None:
        self.requires_normal = True
        self.register_buffer("ambient_light_color", torch.tensor(self.cfg.ambient_light_color), persistent=False)
        self.register_buffer("diffuse_light_color", torch.tensor(self.cfg.diffuse_light_color), persistent=False)
        self.ambient_only = self.cfg.ambient_only_steps > 0

    def forward(
        self,
        features: Float[Tensor, "*B Nf"],
        positions: Float[Tensor, "*B 3"],
        shading_normal: Float[Tensor, "*B 3"],
        light_positions: Float[Tensor, "*B 3"],
        ambient_ratio: float | None = None,
        shading: str | None = None,
        **kwargs,
    ) -> Float[Tensor, "*B 3"]:
        """Colours in [0, 1] (if the light's are).

        Args:
            ambient_ratio: share of ambient light in white light; None: the configured colours.
            shading: ``albedo``, ``textureless`` or ``diffuse``; None: drawn in training, by the step in evaluation.
        """
        shading = self._draw_shading() if shading is None else shading
        if shading not in SHADINGS:
            raise UserError(f"shading={shading}; choices: {', '.join(SHADINGS)}")
        ambient, diffuse = self.ambient_light_color, self.diffuse_light_color
        if ambient_ratio is None and self.training and self.cfg.soft_shading:
            ambient_ratio = 1 - torch.rand(()).item()
        if ambient_ratio is not None:
            ambient, diffuse = torch.full_like(ambient, ambient_ratio), torch.full_like(diffuse, 1 - ambient_ratio)
        to_light = F.normalize(light_positions - positions, dim=-1)
        light = ambient + diffuse * dot(shading_normal, to_light).clamp_min(0.0)
        return SHADINGS[shading](self._albedo(features), light)

    def _albedo(self, features: Float[Tensor, "*B Nf"]) -> Float[Tensor, "*B 3"]:
        return get_activation(self.cfg.albedo_activation)(features[..., :3])

    def _draw_shading(self) -> str:
        if not self.training:
            return "albedo" if self.ambient_only or self.cfg.ambient_only_on_test else "diffuse"
        if self.ambient_only:
            return "albedo"
        # torch's generator, so that a resumed run draws the same
        for_light, for_texture = torch.rand(2).tolist()
        if for_light > self.cfg.diffuse_prob:
            return "albedo"
        return "textureless" if for_texture < self.cfg.textureless_prob else "diffuse"

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.ambient_only = global_step < self.cfg.ambient_only_steps

    def export(self, features: Float[Tensor, "*N Nf"], **kwargs) -> dict[str, Float[Tensor, "*N 3"]]:
        """``albedo`` in [0, 1]."""
        return {"albedo": self._albedo(features).clamp(0, 1)}
