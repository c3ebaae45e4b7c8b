"""nerfacc 0.5's interface as far as text-to-3D programs call it: occupancy grid, compositing, importance sampling.

Samples are either packed (with ``ray_indices`` and ``n_rays``) or batched ([rays, samples], without).
Left out: proposal networks (``PropNetEstimator``), ``packed_info``, ``prefix_trans``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backends import volrend
from backends.occupancy import OccGridEstimator, ray_aabb_intersect
from backends.volrend import exclusive_sum, invert_cdf, pack_info

__all__ = [
    "AbstractEstimator",
    "OccGridEstimator",
    "PropNetEstimator",
    "RayIntervals",
    "RaySamples",
    "accumulate_along_rays",
    "importance_sampling",
    "pack_info",
    "ray_aabb_intersect",
    "render_transmittance_from_density",
    "render_weight_from_alpha",
    "render_weight_from_density",
    "searchsorted",
]


@dataclass
class RayIntervals:
    """Edges of the intervals of each ray, [rays, edges]."""

    vals: Tensor


@dataclass
class RaySamples:
    """Positions of the samples of each ray, [rays, samples]."""

    vals: Tensor


class AbstractEstimator(nn.Module):
    """Base of samplers: knows where it lives."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_where", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        return self._where.device


class PropNetEstimator(AbstractEstimator):
    """Not among the twins: proposal networks need nerfacc itself."""

    def __init__(self, *_, **__) -> None:
        raise ValueError("estimator=proposal needs nerfacc's CUDA kernels; here: occgrid, importance")


def _packed(function, edges_or_values: tuple[Tensor, ...], ray_indices, n_rays) -> tuple[Tensor, ...]:
    """Call a packed function on batched values too."""
    if ray_indices is not None:
        return function(*edges_or_values, ray_indices, n_rays)
    shape = edges_or_values[0].shape
    rays = torch.arange(shape[0], device=edges_or_values[0].device).repeat_interleave(shape[1])
    return tuple(out.view(shape) for out in function(*(v.reshape(-1) for v in edges_or_values), rays, shape[0]))


def render_transmittance_from_density(
    t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, packed_info=None, ray_indices=None, n_rays=None, prefix_trans=None
) -> tuple[Tensor, Tensor]:
    """(transmittance, opacity) of each sample."""
    _only_plain(packed_info, prefix_trans)
    return _packed(volrend.render_transmittance_from_density, (t_starts, t_ends, sigmas), ray_indices, n_rays)


def render_weight_from_density(
    t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, packed_info=None, ray_indices=None, n_rays=None, prefix_trans=None
) -> tuple[Tensor, Tensor, Tensor]:
    """(weight, transmittance, opacity) of each sample."""
    _only_plain(packed_info, prefix_trans)
    return _packed(volrend.render_weight_from_density, (t_starts, t_ends, sigmas), ray_indices, n_rays)


def render_weight_from_alpha(
    alphas: Tensor, packed_info=None, ray_indices=None, n_rays=None, prefix_trans=None
) -> tuple[Tensor, Tensor]:
    """(weight, transmittance) of each sample from its opacity."""
    _only_plain(packed_info, prefix_trans)

    def from_alpha(alphas: Tensor, rays: Tensor, count: int) -> tuple[Tensor, Tensor]:
        transmittance = torch.exp(exclusive_sum(torch.log1p(-alphas.clamp(0, 1 - 1e-7)), rays, count))
        return transmittance * alphas, transmittance

    return _packed(from_alpha, (alphas,), ray_indices, n_rays)


def accumulate_along_rays(weights: Tensor, values: Tensor | None = None, ray_indices=None, n_rays=None) -> Tensor:
    """Weighted sums per ray."""
    if ray_indices is None:
        return weights.sum(-1, keepdim=True) if values is None else (weights[..., None] * values).sum(-2)
    return volrend.accumulate_along_rays(weights, values, ray_indices, n_rays)


def importance_sampling(
    intervals: RayIntervals, cdfs: Tensor, n_intervals_per_ray: int, stratified: bool = False
) -> tuple[RayIntervals, RaySamples]:
    """New intervals that share the distribution evenly; ``cdfs`` [rays, edges] at the edges of ``intervals``."""
    edges = invert_cdf(intervals.vals, cdfs, n_intervals_per_ray + 1, stratified)
    return RayIntervals(edges), RaySamples((edges[:, 1:] + edges[:, :-1]) / 2)


def searchsorted(sorted_sequence: RayIntervals, values: RayIntervals) -> tuple[Tensor, Tensor]:
    """Indices of the edges left and right of each value."""
    right = torch.searchsorted(sorted_sequence.vals.contiguous(), values.vals.contiguous(), right=True)
    last = sorted_sequence.vals.shape[-1] - 1
    return (right - 1).clamp(0, last), right.clamp(0, last)


def _only_plain(packed_info, prefix_trans) -> None:
    if packed_info is not None or prefix_trans is not None:
        raise ValueError("packed_info and prefix_trans need nerfacc's own code; give ray_indices and n_rays")
