"""Emission-absorption volume rendering of a density field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

import threestudio
from backends import select
from backends.occupancy import ray_aabb_intersect
from threestudio.models.background.base import BaseBackground
from threestudio.models.estimators import ImportanceEstimator
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.renderers.base import VolumeRenderer
from threestudio.utils.errors import UserError
from threestudio.utils.misc import get_device
from threestudio.utils.ops import chunk_batch, validate_empty_rays
from threestudio.utils.typing import Float, Int, Tensor

Samples = tuple[Int[Tensor, "N"], Float[Tensor, "N"], Float[Tensor, "N"]]


@threestudio.register("nerf-volume-renderer")
class NeRFVolumeRenderer(VolumeRenderer):
    """Colour and depth along rays from a geometry's density and a material's colours.

    Args of :class:`Config`:
        num_samples_per_ray: the step is the box's diagonal over this number.
        eval_chunk_size: samples evaluated at once when no gradients are needed.
        randomized: shift samples by a random share of a step in training.
        near_plane, far_plane: bounds of the rays, for ``importance``.
        return_comp_normal: render normals even if the material needs none. return_normal_perturb: normals at
            slightly moved points too, in training.
        estimator: ``occgrid`` (occupancy grid that skips empty space) or ``importance`` (two passes).
        grid_prune: let the grid learn what is empty. prune_alpha_threshold: also drop nearly empty samples.
        num_samples_per_ray_proposal, num_samples_per_ray_importance: samples of the two passes of ``importance``.
        proposal_network_config, prop_optimizer_config, prop_scheduler_config: accepted for compatibility; must be null.
    """

    @dataclass
    class Config(VolumeRenderer.Config):
        num_samples_per_ray: int = 512
        eval_chunk_size: int = 160000
        randomized: bool = True
        near_plane: float = 0.0
        far_plane: float = 1e10
        return_comp_normal: bool = False
        return_normal_perturb: bool = False
        estimator: str = "occgrid"
        grid_prune: bool = True
        prune_alpha_threshold: bool = True
        proposal_network_config: dict | None = None
        prop_optimizer_config: dict | None = None
        prop_scheduler_config: dict | None = None
        num_samples_per_ray_proposal: int = 64
        num_samples_per_ray_importance: int = 64

    cfg: Config

    #: Cells of the occupancy grid per axis.
    GRID_RESOLUTION = 32
    #: Samples more transparent than this are dropped with ``prune_alpha_threshold``.
    ALPHA_THRESHOLD = 0.01
    #: Standard deviation of the move for ``normal_perturb``, world units.
    PERTURBATION = 0.01

    def configure(self, geometry: BaseImplicitGeometry, material: BaseMaterial, background: BaseBackground) -> None:
        super().configure(geometry, material, background)
        self.backend = select.volume_rendering(get_device())
        estimators: dict[str, tuple[Callable, Callable]] = {
            "occgrid": (self._occupancy_grid, self._sample_occupied),
            "importance": (ImportanceEstimator, self._sample_by_importance),
        }
        if self.cfg.estimator not in estimators:
            raise UserError(f"renderer.estimator={self.cfg.estimator}; choices: {', '.join(estimators)}")
        for key in ("proposal_network_config", "prop_optimizer_config", "prop_scheduler_config"):
            if self.cfg[key] is not None:
                raise UserError(
                    f"renderer.{key}={self.cfg[key]}; choices: null (no estimator here trains a proposal network)"
                )
        build, self._sample = estimators[self.cfg.estimator]
        self.estimator = build()
        # diagonal of the box, with the reference's rounding of √3
        self.render_step_size = 1.732 * 2 * self.cfg.radius / self.cfg.num_samples_per_ray

    def _occupancy_grid(self):
        grid = self.backend.OccGridEstimator(roi_aabb=self.bbox.view(-1), resolution=self.GRID_RESOLUTION, levels=1)
        if not self.cfg.grid_prune:
            grid.occs.fill_(1)
            grid.binaries.fill_(True)
        return grid

    # ------------------------------------------------------------------------------------------------ samples

    def _sample_occupied(self, rays_o: Float[Tensor, "R 3"], rays_d: Float[Tensor, "R 3"]) -> Samples:
        """Steps through the occupied cells; with ``prune_alpha_threshold`` only those that can be seen."""

        def sigma_fn(t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor) -> Float[Tensor, "N"]:
            points = rays_o[ray_indices] + rays_d[ray_indices] * ((t_starts + t_ends) / 2)[:, None]
            return self._chunked(self.geometry.forward_density, points)[..., 0]

        prune = self.cfg.grid_prune and self.cfg.prune_alpha_threshold
        return self.estimator.sampling(
            rays_o,
            rays_d,
            sigma_fn=sigma_fn if self.cfg.grid_prune else None,
            render_step_size=self.render_step_size,
            alpha_thre=self.ALPHA_THRESHOLD if prune else 0.0,
            stratified=self._shifted(),
        )

    def _sample_by_importance(self, rays_o: Float[Tensor, "R 3"], rays_d: Float[Tensor, "R 3"]) -> Samples:
        """Equal intervals inside the box first, then as many where the light is lost."""
        near, far = ray_aabb_intersect(rays_o, rays_d, self.bbox.view(-1), self.cfg.near_plane, self.cfg.far_plane)
        hit = (near < far).nonzero()[:, 0]
        origins, directions = rays_o[hit, None], rays_d[hit, None]

        def sigma_fn(t_starts: Float[Tensor, "R S"], t_ends: Float[Tensor, "R S"]) -> Float[Tensor, "R S"]:
            points = origins + directions * ((t_starts + t_ends) / 2)[..., None]
            density = self._chunked(self.geometry.forward_density, points.reshape(-1, 3))
            return density.view(t_starts.shape)

        t_starts, t_ends = self.estimator.sampling(
            [sigma_fn],
            [self.cfg.num_samples_per_ray_proposal],
            self.cfg.num_samples_per_ray_importance,
            near[hit],
            far[hit],
            stratified=self._shifted(),
        )
        return hit.repeat_interleave(t_starts.shape[-1]), t_starts.reshape(-1), t_ends.reshape(-1)

    def _shifted(self) -> bool:
        """Whether samples are shifted. Asked where it is used: after a validation Lightning sets ``training`` itself,
        without calling ``train()``, so what ``train()`` keeps is that of the validation."""
        return self.training and self.cfg.randomized

    def _chunked(self, function: Callable, *args, **kwargs):
        """The function's value; piece by piece where no graph is recorded."""
        return chunk_batch(function, 0 if torch.is_grad_enabled() else self.cfg.eval_chunk_size, *args, **kwargs)

    # ------------------------------------------------------------------------------------------------- images

    def forward(
        self,
        rays_o: Float[Tensor, "B H W 3"],
        rays_d: Float[Tensor, "B H W 3"],
        light_positions: Float[Tensor, "B 3"],
        bg_color: Float[Tensor, "..."] | None = None,
        **kwargs,
    ) -> dict[str, Float[Tensor, "..."]]:
        """Images of the rays, as a dict of (B, H, W, C) tensors.

        ``comp_rgb`` (with background), ``comp_rgb_fg``, ``comp_rgb_bg``, ``opacity`` in [0, 1]; ``depth``: Σ w t along
        the unit ray, 0 where nothing is hit; ``z_variance``: variance of t under the normalised weights, 0 where
        opacity ≤ ½; ``comp_normal``: (n + 1)/2 times opacity, if the material needs normals or ``return_comp_normal``.
        In training also the samples, (N, …): ``weights``, ``t_points``, ``t_intervals``, ``t_dirs``, ``ray_indices``,
        ``points`` and what the geometry gives.

        Args:
            rays_o, rays_d: origins and unit directions in world coordinates.
            light_positions: one point light per image.
            bg_color: colour in place of the background's: (B, H, W, Nc) or one per image (B, Nc).
        """
        shape = rays_o.shape[:3]
        origins, directions = rays_o.reshape(-1, 3), rays_d.reshape(-1, 3)
        n_rays = len(origins)
        ray_indices, t_starts, t_ends = validate_empty_rays(*self._sample(origins, directions))
        t_starts, t_ends = t_starts.to(origins)[:, None], t_ends.to(origins)[:, None]
        t_points, t_dirs = (t_starts + t_ends) / 2, directions[ray_indices]
        points = origins[ray_indices] + t_dirs * t_points
        lights = light_positions[ray_indices // (shape[1] * shape[2])]

        needs_normal = self.material.requires_normal or self.cfg.return_comp_normal
        geo_out = self._chunked(self.geometry, points, output_normal=needs_normal)
        rgb = self._chunked(
            self.material, viewdirs=t_dirs, positions=points, light_positions=lights, **geo_out, **kwargs
        )
        weights, _, _ = self.backend.render_weight_from_density(
            t_starts[:, 0], t_ends[:, 0], geo_out["density"][:, 0], ray_indices=ray_indices, n_rays=n_rays
        )

        def integrate(values: Float[Tensor, "N C"], weights: Float[Tensor, "N"] = weights) -> Float[Tensor, "R C"]:
            return self.backend.accumulate_along_rays(weights, values=values, ray_indices=ray_indices, n_rays=n_rays)

        opacity, depth, comp_rgb_fg = integrate(
            torch.cat([torch.ones_like(t_points), t_points, rgb.to(t_points)], dim=-1)
        ).split([1, 1, rgb.shape[-1]], dim=-1)
        # variance of the distance where the ray ends; where it mostly goes on there is no such distance
        solid = opacity > 0.5
        normaliser = torch.where(solid, opacity, 1)
        offset = t_points - (depth / normaliser)[ray_indices]
        z_variance = torch.where(solid, integrate(offset.square()) / normaliser, 0)

        comp_rgb_bg = self.background(dirs=rays_d)
        bg_color = _per_ray(comp_rgb_bg if bg_color is None else bg_color, shape)
        images = {
            "comp_rgb": comp_rgb_fg + bg_color * (1 - opacity),
            "comp_rgb_fg": comp_rgb_fg,
            "comp_rgb_bg": comp_rgb_bg,
            "opacity": opacity,
            "depth": depth,
            "z_variance": z_variance,
        }
        if needs_normal:
            images["comp_normal"] = (F.normalize(integrate(geo_out["normal"]), dim=-1) + 1) / 2 * opacity
        out = {key: image.reshape(*shape, -1) for key, image in images.items()}
        if not self.training:
            return out
        if needs_normal and self.cfg.return_normal_perturb:
            moved = points + torch.randn_like(points) * self.PERTURBATION
            out["normal_perturb"] = self.geometry(moved, output_normal=True)["normal"]
        return out | {
            "weights": weights[:, None],
            "t_points": t_points,
            "t_intervals": t_ends - t_starts,
            "t_dirs": t_dirs,
            "ray_indices": ray_indices,
            "points": points,
            **geo_out,
        }

    # ----------------------------------------------------------------------------------------------- schedules

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        if self.cfg.estimator != "occgrid" or not self.cfg.grid_prune or not self.training or on_load_weights:
            return

        def opacity_of_one_step(points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 1"]:
            return self.geometry.forward_density(points) * self.render_step_size  # ≈ 1 - exp(-σδ)

        self.estimator.update_every_n_steps(step=global_step, occ_eval_fn=opacity_of_one_step)


def _per_ray(color: Float[Tensor, "..."], shape: torch.Size) -> Float[Tensor, "R Nc"]:
    """Colour per image (B, Nc) or per pixel (B, H, W, Nc) -> per ray."""
    if color.ndim == 2 and len(color) == shape[0]:
        color = color[:, None, None].expand(*shape, -1)
    return color.reshape(-1, color.shape[-1])
