"""Dense feature grids: a pyramid whose levels are summed, cheap enough to train on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from backends.interpolation import trilinear


def refine(grid: Float[Tensor, "rx ry rz c"]) -> Float[Tensor, "sx sy sz c"]:
    """Trilinear interpolation of a grid to twice as many cells per axis (s = 2r - 1 nodes), one axis at a time."""
    # the last axis first, while the grid is small: its slices are the least contiguous ones
    for axis in (2, 1, 0):
        cells = grid.shape[axis] - 1
        nodes, next_nodes = grid.narrow(axis, 0, cells), grid.narrow(axis, 1, cells)
        halves = torch.stack([nodes, (nodes + next_nodes) / 2], dim=axis + 1).flatten(axis, axis + 1)
        grid = torch.cat([halves, grid.narrow(axis, cells, 1)], dim=axis)
    return grid


class DenseGridPyramid(nn.Module):
    """Sum of dense grids of base_resolution · 2^l cells per axis (l = 0 … n_levels - 1) over the unit cube.

    Grids of doubling resolution nest: the sum of their trilinear interpolants *is* the trilinear interpolant of one
    grid at the finest resolution. So the levels are first added up on the nodes (a few ms at 64³), and each query
    costs one lookup, whatever the number of levels. The pyramid only changes how the gradient acts: coarse levels
    move large regions at once, which lets shapes grow into empty space.

    Args:
        n_input_dims: 3.
        encoding_config: ``n_levels`` (4), ``base_resolution`` (8), ``n_features_per_level`` (4; also the output
            size, since levels are summed), ``init_std`` (1e-4; exactly 0 would leave a ReLU network without gradient).
    """

    def __init__(self, n_input_dims: int, encoding_config: Mapping[str, Any]):
        super().__init__()
        if n_input_dims != 3:
            raise ValueError(f"DenseGridPyramid: n_input_dims={n_input_dims}; choices: 3")
        self.n_input_dims = n_input_dims
        self.n_levels = encoding_config.get("n_levels", 4)
        self.n_output_dims = encoding_config.get("n_features_per_level", 4)
        self.n_active_levels = self.n_levels
        std = encoding_config.get("init_std", 1e-4)
        resolutions = [encoding_config.get("base_resolution", 8) * 2**level for level in range(self.n_levels)]
        self.levels = nn.ParameterList(
            nn.Parameter(torch.randn(r + 1, r + 1, r + 1, self.n_output_dims) * std) for r in resolutions
        )

    def merged(self) -> Float[Tensor, "rx ry rz c"]:
        """The active levels as one grid at the resolution of the finest of them."""
        coarsest, *finer = list(self.levels)[: self.n_active_levels]
        grid = coarsest
        for level in finer:
            grid = refine(grid) + level
        return grid

    def forward(self, unit_points: Float[Tensor, "n 3"]) -> Float[Tensor, "n c"]:
        """Features at points of the unit cube (points outside take the value of the nearest face)."""
        return trilinear(self.merged(), unit_points)
