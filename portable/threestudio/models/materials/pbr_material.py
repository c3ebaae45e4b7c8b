"""Metal or not, rough or not, lit from all around (Fantasia3D's appearance)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

import threestudio
from backends.environment_light import EnvironmentLight
from threestudio.models.materials.base import BaseMaterial
from threestudio.utils.errors import UserError
from threestudio.utils.ops import get_activation
from threestudio.utils.typing import Float, Tensor


def environment_brdf(roughness: Float[Tensor, "N 1"], n_dot_v: Float[Tensor, "N 1"]) -> tuple[Tensor, Tensor]:
    """Scale and bias [N, 1] of F0 in the reflected share of even light: Karis 2014's closed form of the split sum."""
    a = 1 - roughness
    b = 0.0425 - 0.0275 * roughness
    c = 1.04 - 0.572 * roughness
    d = 0.022 * roughness - 0.04
    falloff = torch.minimum(a.square(), torch.exp2(-9.28 * n_dot_v)) * a + b
    return c - 1.04 * falloff, d + 1.04 * falloff


@threestudio.register("pbr-material")
class PBRMaterial(BaseMaterial):
    """Features: albedo (3), metallic (1), roughness (1) and, with ``use_bump``, a change of the normal (3).

    Args of :class:`Config`:
        environment_texture: Radiance .hdr picture of the light, its top at +y (:mod:`backends.environment_light`);
            threestudio's default is a file of its checkout, to be found from the working folder.
        environment_scale: factor on the light.
        min_metallic … max_roughness: ranges that the features in 0 .. 1 are stretched to.
    """

    @dataclass
    class Config(BaseMaterial.Config):
        material_activation: str = "sigmoid"
        environment_texture: str = "load/lights/mud_road_puresky_1k.hdr"
        environment_scale: float = 2.0
        min_metallic: float = 0.0
        max_metallic: float = 0.9
        min_roughness: float = 0.08
        max_roughness: float = 0.9
        use_bump: bool = True

    cfg: Config

    def configure(self) -> None:
        self.requires_normal = True
        self.requires_tangent = self.cfg.use_bump
        self.light = EnvironmentLight(self.cfg.environment_texture, self.cfg.environment_scale)

    def channels(self, features: Float[Tensor, "*B Nf"]) -> dict[str, Tensor]:
        """``albedo``, ``metallic``, ``roughness`` and ``bump`` (a unit normal in tangent space) from features."""
        cfg = self.cfg
        needed = 8 if cfg.use_bump else 5
        if features.shape[-1] < needed:
            raise UserError(f"pbr-material needs geometry.n_feature_dims={needed}, not {features.shape[-1]}")
        value = get_activation(cfg.material_activation)(features)
        out = {
            "albedo": value[..., :3],
            "metallic": value[..., 3:4] * (cfg.max_metallic - cfg.min_metallic) + cfg.min_metallic,
            "roughness": value[..., 4:5] * (cfg.max_roughness - cfg.min_roughness) + cfg.min_roughness,
        }
        if cfg.use_bump:
            change = value[..., 5:8] * 2 - 1 + value.new_tensor([0.0, 0.0, 1.0])
            out["bump"] = F.normalize(change.clamp(-1, 1), dim=-1)
        return out

    def forward(
        self,
        features: Float[Tensor, "*B Nf"],
        viewdirs: Float[Tensor, "*B 3"],
        shading_normal: Float[Tensor, "*B 3"],
        tangent: Float[Tensor, "*B 3"] | None = None,
        **kwargs,
    ) -> Float[Tensor, "*B 3"]:
        """Colours in 0 .. 1 at points seen along ``viewdirs`` (from the camera)."""
        shape = features.shape[:-1]
        is_what = {name: value.reshape(-1, value.shape[-1]) for name, value in self.channels(features).items()}
        normal, view = shading_normal.reshape(-1, 3), -viewdirs.reshape(-1, 3)
        if self.cfg.use_bump:
            tangent = tangent.reshape(-1, 3)
            bitangent = F.normalize(torch.linalg.cross(tangent, normal, dim=-1), dim=-1)
            along, across, up = is_what["bump"].split(1, dim=-1)
            normal = F.normalize(along * tangent - across * bitangent + up * normal, dim=-1)
        n_dot_v = (normal * view).sum(-1, keepdim=True)
        mirrored = 2 * n_dot_v * normal - view
        metallic, roughness, albedo = is_what["metallic"], is_what["roughness"], is_what["albedo"]
        scale, bias = environment_brdf(roughness, n_dot_v.clamp(0, 1))
        f0 = 0.04 * (1 - metallic) + metallic * albedo
        matt = (1 - metallic) * albedo * self.light.diffuse(normal)
        glossy = (f0 * scale + bias) * self.light.specular(mirrored, roughness)
        return (matt + glossy).clamp(0, 1).view(*shape, 3)

    def export(self, features: Float[Tensor, "*N Nf"], **kwargs) -> dict[str, Any]:
        """Texture channels; ``bump`` in 0 .. 1."""
        out = self.channels(features)
        if "bump" in out:
            out["bump"] = (out["bump"] + 1) / 2
        return out
