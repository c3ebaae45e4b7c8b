"""Volume rendering of packed ray samples: the quadrature of Max (1995) as used by NeRF (Mildenhall et al. 2020).

Samples of all rays lie one after another in flat tensors of length ``n``; ``ray_indices`` (n,) names the ray of each
and is sorted, samples of one ray are ordered front to back. Function and argument names follow nerfacc 0.5, whose
CUDA kernels are the fast twin (see :mod:`backends.select`). Everything here is differentiable torch on any device,
and rays or inputs without samples give zeros, never NaN.

With optical thickness τ_i = σ_i δ_i:  α_i = 1 - exp(-τ_i),  T_i = exp(-Σ_{j<i} τ_j),  w_i = T_i α_i.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def pack_info(ray_indices: Int[Tensor, "n"], n_rays: int) -> Int[Tensor, "r 2"]:
    """Start and number of samples of each of ``n_rays`` rays, from the sorted ray index of each sample."""
    counts = torch.bincount(ray_indices, minlength=n_rays)
    return torch.stack([counts.cumsum(0) - counts, counts], dim=-1)


def exclusive_sum(values: Float[Tensor, "n"], ray_indices: Int[Tensor, "n"], n_rays: int) -> Float[Tensor, "n"]:
    """Sum of the values in front of each sample on the same ray.

    One running sum over all samples, minus its value where the ray starts. The difference of two large sums needs
    float64 (10^5 samples lose about 5 digits); Apple's GPUs have none and keep the input's type.
    """
    if values.numel() == 0:
        return values
    wide = values if values.device.type == "mps" else values.double()
    running = wide.cumsum(0) - wide
    first_sample = pack_info(ray_indices, n_rays)[:, 0]
    # a ray without samples at the very end would start one past the last sample; no sample ever asks for it
    at_ray_start = running[first_sample.clamp_max(len(values) - 1)]
    return (running - at_ray_start[ray_indices]).to(values.dtype)


def render_transmittance_from_density(
    t_starts: Float[Tensor, "n"],
    t_ends: Float[Tensor, "n"],
    sigmas: Float[Tensor, "n"],
    ray_indices: Int[Tensor, "n"],
    n_rays: int,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Transmittance T in front of each sample and its opacity α, both in [0, 1], from densities σ ≥ 0 [1/length]."""
    thickness = sigmas * (t_ends - t_starts)
    transmittance = torch.exp(-exclusive_sum(thickness, ray_indices, n_rays))
    return transmittance, -torch.expm1(-thickness)


def render_weight_from_density(
    t_starts: Float[Tensor, "n"],
    t_ends: Float[Tensor, "n"],
    sigmas: Float[Tensor, "n"],
    ray_indices: Int[Tensor, "n"],
    n_rays: int,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Compositing weights w = T α of each sample, with T and α: (weights, transmittance, alphas)."""
    transmittance, alphas = render_transmittance_from_density(t_starts, t_ends, sigmas, ray_indices, n_rays)
    return transmittance * alphas, transmittance, alphas


@torch.no_grad()
def render_visibility_from_density(
    t_starts: Float[Tensor, "n"],
    t_ends: Float[Tensor, "n"],
    sigmas: Float[Tensor, "n"],
    ray_indices: Int[Tensor, "n"],
    n_rays: int,
    early_stop_eps: float = 1e-4,
    alpha_thre: float = 0.0,
):
    """True for samples that matter: T ≥ ``early_stop_eps`` (not hidden) and α ≥ ``alpha_thre`` (not empty)."""
    transmittance, alphas = render_transmittance_from_density(t_starts, t_ends, sigmas, ray_indices, n_rays)
    return (transmittance >= early_stop_eps) & (alphas >= alpha_thre)


def accumulate_along_rays(
    weights: Float[Tensor, "n"],
    values: Float[Tensor, "n c"] | None,
    ray_indices: Int[Tensor, "n"],
    n_rays: int,
) -> Float[Tensor, "r c"]:
    """Σ w_i v_i per ray, (n_rays, c); ``values`` None accumulates the weights themselves, (n_rays, 1)."""
    weighted = weights[:, None] if values is None else weights[:, None] * values
    return weighted.new_zeros(n_rays, weighted.shape[-1]).index_add(0, ray_indices, weighted)


def invert_cdf(
    edges: Float[Tensor, "R E"], cdf: Float[Tensor, "R E"], count: int, stratified: bool
) -> Float[Tensor, "R C"]:
    """``count`` increasing positions where the piecewise linear ``cdf`` over ``edges`` takes evenly spaced values."""
    shift = torch.rand_like(edges[:, :1]) if stratified else 0.5
    levels = (torch.arange(count, device=edges.device) + shift).expand(len(edges), count) / count
    right = torch.searchsorted(cdf.contiguous(), levels.contiguous(), right=True).clamp(1, edges.shape[-1] - 1)
    cdf_left, cdf_right = cdf.gather(-1, right - 1), cdf.gather(-1, right)
    share = (levels - cdf_left) / (cdf_right - cdf_left).clamp_min(1e-8)
    return torch.lerp(edges.gather(-1, right - 1), edges.gather(-1, right), share.clamp(0, 1))
