"""Multiresolution hash grid (Müller et al. 2022, arXiv 2201.05989), laid out in memory as tiny-cuda-nn's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from backends.interpolation import corner_offsets, corner_weights, weighted_rows

# Eq. 4 of the paper: index = XOR of coordinate times prime, modulo the table size
PRIMES = (1, 2_654_435_761, 805_459_861)

INTERPOLATIONS = {
    "Linear": lambda fraction: fraction,
    "Smoothstep": lambda fraction: fraction * fraction * (3 - 2 * fraction),
}


class HashGrid(nn.Module):
    """Concatenated features of ``n_levels`` grids; levels with more nodes than the table share rows by hashing.

    ``params`` is one flat vector, level after level, row after row, as in tiny-cuda-nn, so that its weights load.
    Level l has scale s_l = base_resolution · per_level_scale^l - 1 and ceil(s_l) + 1 nodes per axis; a point x lies
    at s_l x + ½ in its lattice (the half keeps the levels' nodes from coinciding).

    Args:
        n_input_dims: 2 or 3.
        encoding_config: tiny-cuda-nn's keys ``n_levels`` (16), ``n_features_per_level`` (2), ``log2_hashmap_size``
            (19), ``base_resolution`` (16), ``per_level_scale`` (2.0), ``interpolation`` (Linear or Smoothstep);
            ``type`` Hash or Dense (no table limit).
    """

    def __init__(self, n_input_dims: int, encoding_config: Mapping[str, Any]):
        super().__init__()
        if n_input_dims not in (2, 3):
            raise ValueError(f"HashGrid: n_input_dims={n_input_dims}; choices: 2, 3")
        interpolation = encoding_config.get("interpolation", "Linear")
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"HashGrid: interpolation={interpolation}; choices: {', '.join(INTERPOLATIONS)}")
        kind = encoding_config.get("type", "Hash")
        if kind not in ("Hash", "Dense"):
            raise ValueError(f"HashGrid: type={kind}; choices: Hash, Dense")
        self.fade = INTERPOLATIONS[interpolation]
        self.n_input_dims = n_input_dims
        self.n_levels = encoding_config.get("n_levels", 16)
        self.n_features_per_level = encoding_config.get("n_features_per_level", 2)
        self.n_output_dims = self.n_levels * self.n_features_per_level

        growth = math.log2(encoding_config.get("per_level_scale", 2.0))
        base = encoding_config.get("base_resolution", 16)
        scales = [base * 2 ** (level * growth) - 1 for level in range(self.n_levels)]
        nodes = [math.ceil(scale) + 1 for scale in scales]
        table_size = 2 ** encoding_config.get("log2_hashmap_size", 19) if kind == "Hash" else math.inf
        # rows of a level are padded to a multiple of 8
        rows = [min(math.ceil(n**n_input_dims / 8) * 8, table_size) for n in nodes]
        self.hashed = [n**n_input_dims > size for n, size in zip(nodes, rows)]
        self.register_buffer("scales", torch.tensor(scales), persistent=False)
        self.register_buffer("nodes", torch.tensor(nodes), persistent=False)
        self.register_buffer("rows", torch.tensor(rows), persistent=False)
        self.register_buffer("first_row", self.rows.cumsum(0) - self.rows, persistent=False)
        self.params = nn.Parameter(torch.empty(sum(rows) * self.n_features_per_level).uniform_(-1e-4, 1e-4))

    def forward(self, unit_points: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        """Features of points in the unit cube, level by level, (n, n_levels · n_features_per_level)."""
        position = unit_points[:, None] * self.scales[:, None].to(unit_points.dtype) + 0.5
        cell = position.detach().floor()
        corners = cell.long()[:, :, None] + corner_offsets(self.n_input_dims, unit_points.device)
        weights = corner_weights(*self.fade(position - cell).unbind(-1))
        table = self.params.view(-1, self.n_features_per_level)
        features = weighted_rows(table, self._row_of(corners).flatten(0, 1), weights.flatten(0, 1))
        return features.view(len(unit_points), self.n_output_dims)

    def _row_of(self, corners: Int[Tensor, "n l k d"]) -> Int[Tensor, "n l k"]:
        """Row of the table for each lattice node of each level."""
        dense = torch.zeros_like(corners[..., 0])
        for axis in reversed(range(self.n_input_dims)):
            dense = dense * self.nodes[:, None] + corners[..., axis]
        rows = dense
        if any(self.hashed):
            hashed = torch.zeros_like(dense)
            for axis, prime in enumerate(PRIMES[: self.n_input_dims]):
                hashed = hashed ^ (corners[..., axis] * prime)
            is_hashed = torch.tensor(self.hashed, device=corners.device)[:, None]
            rows = torch.where(is_hashed, hashed, dense)
        return rows.remainder(self.rows[:, None]) + self.first_row[:, None]
