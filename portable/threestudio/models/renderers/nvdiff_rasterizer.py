"""Deferred rendering of the geometry's surface mesh, differentiable up to its silhouettes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.background.base import BaseBackground
from threestudio.models.geometry.base import BaseGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.renderers.base import Rasterizer
from threestudio.utils.errors import UserError
from threestudio.utils.misc import get_device
from threestudio.utils.rasterize import NVDiffRasterizerContext


@threestudio.register("nvdiff-rasterizer")
class NVDiffRasterizer(Rasterizer):
    """Triangles to pixels: normals, opacity, and colours evaluated at the visible surface points.

    Args of :class:`Config`:
        context_type: ``gl`` or ``cuda``, see :class:`NVDiffRasterizerContext`.
        supersample: render this many times finer along each axis and average; worth 2 to 4 where triangles are
            smaller than pixels, because a pixel knows only one of its triangles.
    """

    @dataclass
    class Config(Rasterizer.Config):
        context_type: str = "gl"
        supersample: int = 1

    cfg: Config

    def configure(self, geometry: BaseGeometry, material: BaseMaterial, background: BaseBackground) -> None:
        super().configure(geometry, material, background)
        if self.cfg.supersample < 1:
            raise UserError(f"renderer.supersample={self.cfg.supersample}; must be at least 1")
        self.ctx = NVDiffRasterizerContext(self.cfg.context_type, get_device())

    def forward(
        self,
        mvp_mtx: Float[Tensor, "B 4 4"],
        camera_positions: Float[Tensor, "B 3"],
        light_positions: Float[Tensor, "B 3"],
        height: int,
        width: int,
        render_rgb: bool = True,
        bg_color: Float[Tensor, "..."] | None = None,
        **kwargs,
    ) -> dict:
        """Images of the views, as a dict of [B, H, W, C] tensors, and the mesh they show.

        ``opacity``; ``comp_normal``: (n + 1) / 2 in world axes times opacity; ``depth``: distance from the camera,
        0 where nothing is hit; with ``render_rgb`` also ``comp_rgb``, ``comp_rgb_fg`` (times opacity) and
        ``comp_rgb_bg``; ``mesh``, for regularisers.

        Args:
            bg_color: colour in place of the background's: [B, H, W, C] or one per image [B, C].
        """
        mesh = self.geometry.isosurface()
        height, width = height * self.cfg.supersample, width * self.cfg.supersample
        clip = self.ctx.vertex_transform(mesh.v_pos, mvp_mtx)
        rast, _ = self.ctx.rasterize(clip, mesh.t_pos_idx, (height, width))
        hit = rast[..., 3:] > 0
        mask = hit.float()

        normal = F.normalize(self.ctx.interpolate_one(mesh.v_nrm, rast, mesh.t_pos_idx)[0], dim=-1)
        points = self.ctx.interpolate_one(mesh.v_pos, rast, mesh.t_pos_idx)[0]
        distance = (points - camera_positions[:, None, None, :]).norm(dim=-1, keepdim=True)
        images = {"opacity": mask, "comp_normal": (normal + 1) / 2 * mask, "depth": distance * mask}
        if render_rgb:
            images |= self._colours(mesh, rast, hit[..., 0], points, normal, camera_positions, light_positions, kwargs)
            images["comp_rgb_bg"] = self._background(mvp_mtx, camera_positions, (height, width), bg_color)
            images["comp_rgb"] = torch.lerp(images["comp_rgb_bg"], images["comp_rgb_fg"], mask)

        # One pass over all channels: finding the silhouette pixels costs more than blending them.
        names, sizes = list(images), [image.shape[-1] for image in images.values()]
        smooth = self.ctx.antialias(torch.cat(list(images.values()), dim=-1), rast, clip, mesh.t_pos_idx)
        out = dict(zip(names, self._pooled(smooth).split(sizes, dim=-1)))
        return out | {"mesh": mesh}

    def _colours(self, mesh, rast, hit, points, normal, camera_positions, light_positions, kwargs) -> dict[str, Tensor]:
        """``comp_rgb_fg``: the material at the visible points, 0 elsewhere."""
        positions = points[hit]
        view = hit.nonzero()[:, 0]
        inputs = {"viewdirs": F.normalize(positions - camera_positions[view], dim=-1)}
        if self.material.requires_normal:
            inputs["shading_normal"] = normal[hit]
        if self.material.requires_tangent:
            tangent = self.ctx.interpolate_one(mesh.v_tng, rast, mesh.t_pos_idx)[0]
            inputs["tangent"] = F.normalize(tangent, dim=-1)[hit]
        features = self.geometry(positions, output_normal=False)
        rgb = self.material(
            positions=positions, light_positions=light_positions[view], **inputs, **features, **kwargs
        )
        image = rgb.new_zeros(*hit.shape, rgb.shape[-1])
        return {"comp_rgb_fg": image.index_put((hit,), rgb)}

    def _background(self, mvp_mtx, camera_positions, size: tuple[int, int], bg_color: Tensor | None) -> Tensor:
        """The background along the pixels' view rays, or the colour given in its place, [B, H, W, C]."""
        height, width = size
        if bg_color is not None and bg_color.ndim == 2:
            return bg_color[:, None, None].expand(-1, height, width, -1)
        if bg_color is not None:
            return F.interpolate(bg_color.permute(0, 3, 1, 2), size, mode="nearest").permute(0, 2, 3, 1)
        # The point each pixel centre shows at depth 0 of clip space, seen from the camera.
        y, x = ((torch.arange(n, device=mvp_mtx.device) * 2 + 1) / n - 1 for n in size)
        ndc = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1)
        ndc = torch.cat([ndc, torch.zeros_like(ndc[..., :1]), torch.ones_like(ndc[..., :1])], dim=-1)
        world = torch.einsum("bij,hwj->bhwi", torch.linalg.inv(mvp_mtx.float()), ndc)
        return self.background(
            dirs=F.normalize(world[..., :3] / world[..., 3:] - camera_positions[:, None, None, :], dim=-1)
        )

    def _pooled(self, image: Float[Tensor, "B H W C"]) -> Tensor:
        if self.cfg.supersample == 1:
            return image
        return F.avg_pool2d(image.permute(0, 3, 1, 2), self.cfg.supersample).permute(0, 2, 3, 1)
