"""Where along the rays to look: samples for the volume renderer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from backends.volrend import invert_cdf, render_transmittance_from_density
from threestudio.utils.typing import Float, Tensor


class ImportanceEstimator(nn.Module):
    """Samples drawn where coarse densities say the ray ends (NeRF's hierarchical sampling)."""

    @torch.no_grad()
    def sampling(
        self,
        prop_sigma_fns: list[Callable[[Float[Tensor, "R S"], Float[Tensor, "R S"]], Float[Tensor, "R S"]]],
        prop_samples: list[int],
        num_samples: int,
        near: Float[Tensor, "R"],
        far: Float[Tensor, "R"],
        stratified: bool = False,
    ) -> tuple[Float[Tensor, "R N"], Float[Tensor, "R N"]]:
        """(t_starts, t_ends) of ``num_samples`` intervals per ray that share the light evenly.

        Args:
            prop_sigma_fns, prop_samples: densities of (t_starts, t_ends), and how many intervals each gets; the first
                looks at equal intervals between ``near`` and ``far``, each next one where the last found something.
            stratified: random offset of all samples of a ray (global torch generator).
        """
        edges = torch.stack([near, far], dim=-1)
        cdf = torch.tensor([0.0, 1.0], device=near.device).expand_as(edges)
        for sigma_fn, count in zip(prop_sigma_fns, prop_samples):
            edges = invert_cdf(edges, cdf, count + 1, stratified)
            cdf = _light_cdf(edges, sigma_fn(edges[:, :-1], edges[:, 1:]))
        edges = invert_cdf(edges, cdf, num_samples + 1, stratified)
        return edges[:, :-1], edges[:, 1:]


def _light_cdf(edges: Float[Tensor, "R E"], sigmas: Float[Tensor, "R S"]) -> Float[Tensor, "R E"]:
    """Share of the light lost up to each edge, 0 to 1; the light that passes is spread evenly over the ray."""
    rays, samples = sigmas.shape
    ray_indices = torch.arange(rays, device=edges.device).repeat_interleave(samples)
    transmittance, alphas = render_transmittance_from_density(
        edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1), sigmas.reshape(-1), ray_indices, rays
    )
    weights = (transmittance * alphas).view(rays, samples) + 1e-3 / samples
    share = weights.cumsum(-1) / weights.sum(-1, keepdim=True)
    return torch.cat([torch.zeros_like(share[:, :1]), share], dim=-1)
