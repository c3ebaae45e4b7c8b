"""From a level function on a grid to a triangle mesh. Grids live in the unit cube; geometries map it to their box."""

from __future__ import annotations

import os

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from backends.tetrahedra import marching_tetrahedra, tetrahedra_edges, tetrahedral_grid
from threestudio.models.mesh import Mesh
from threestudio.utils.errors import UserError
from threestudio.utils.logging import debug, warn


class IsosurfaceHelper(nn.Module):
    """A grid of points and the surface level = 0 on it, negative inside."""

    points_range: tuple[float, float] = (0, 1)

    @property
    def grid_vertices(self) -> Float[Tensor, "N 3"]:
        """Where the level is wanted, in ``points_range``."""
        return self._grid_vertices

    def forward(self, level: Float[Tensor, "N 1"], deformation: Float[Tensor, "N 3"] | None = None) -> Mesh:
        """Mesh of the surface, in ``points_range``; empty where the level has one sign."""
        raise TypeError(f"{type(self).__name__} extracts no surface; use MarchingTetrahedraHelper")


class MarchingTetrahedraHelper(IsosurfaceHelper):
    """Marching tetrahedra: differentiable in level and deformation, and always closed.

    Args:
        resolution: vertex layers lie 1 / resolution apart (an odd number counts as the next even one).
        tets_path: .npz file with ``vertices`` [N, 3] in [0, 1] and ``indices`` [T, 4] to use if it exists; threestudio
            ships such grids as load/tets/<resolution>_tets.npz. Otherwise the grid is made here.
    """

    def __init__(self, resolution: int, tets_path: str | None = None) -> None:
        super().__init__()
        self.resolution = resolution
        from_file = tets_path is not None and os.path.isfile(tets_path)
        vertices, tets = _load_grid(tets_path) if from_file else tetrahedral_grid(resolution)
        debug(f"tetrahedral grid {tets_path if from_file else 'built in'}: {len(vertices)} vertices, {len(tets)} cells")
        # Not in the state dict: the resolution says it all.
        self.register_buffer("_grid_vertices", vertices, persistent=False)
        self.register_buffer("indices", tets, persistent=False)
        on_side = (vertices == vertices.amin(0)) | (vertices == vertices.amax(0))
        self.register_buffer("boundary", on_side.any(-1), persistent=False)
        self._all_edges: Tensor | None = None

    @property
    def all_edges(self) -> Integer[Tensor, "Ne 2"]:
        """Unique edges of the grid, lower index first."""
        if self._all_edges is None or self._all_edges.device != self.indices.device:
            self._all_edges = tetrahedra_edges(self.indices)
        return self._all_edges

    def normalize_grid_deformation(self, grid_vertex_offsets: Float[Tensor, "Nv 3"]) -> Float[Tensor, "Nv 3"]:
        """Any offsets to at most one layer: tanh(x) (range) / resolution."""
        low, high = self.points_range
        return (high - low) / self.resolution * torch.tanh(grid_vertex_offsets)

    def forward(self, level: Float[Tensor, "N 1"], deformation: Float[Tensor, "N 3"] | None = None) -> Mesh:
        """Closed mesh of the surface; ``extras`` keep what it was made from.

        Vertices on the sides of the cube count as outside (at the mean distance from zero), so that a shape which
        leaves the cube is cut there instead of left open.
        """
        side_level = torch.maximum(level, level.detach().abs().mean())
        level = torch.where(self.boundary[:, None], side_level, level)
        vertices = self.grid_vertices
        if deformation is not None:
            vertices = vertices + self.normalize_grid_deformation(deformation)
        v_pos, t_pos_idx = marching_tetrahedra(vertices, self.indices, level)
        return Mesh(
            v_pos=v_pos,
            t_pos_idx=t_pos_idx,
            # for the surface's own regularisers, and for a grid geometry that starts from this one
            grid_vertices=vertices,
            tet_edges=self.all_edges,
            grid_level=level,
            grid_deformation=deformation,
        )


class MarchingCubeCPUHelper(IsosurfaceHelper):
    """Marching cubes (scikit-image, Lewiner et al. 2003) on a regular grid; not differentiable."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        side = torch.linspace(*self.points_range, resolution)
        grid = torch.stack(torch.meshgrid(side, side, side, indexing="ij"), dim=-1)
        self.register_buffer("_grid_vertices", grid.reshape(-1, 3), persistent=False)

    def forward(self, level: Float[Tensor, "N 1"], deformation: Float[Tensor, "N 3"] | None = None) -> Mesh:
        """Mesh of the surface; a deformation is ignored, with a warning."""
        if deformation is not None:
            warn("marching cubes (mc-cpu) ignores the grid deformation; marching tetrahedra (mt) follows it")
        volume = level.detach().float().cpu().numpy().reshape(3 * (self.resolution,))
        if volume.min() >= 0 or volume.max() <= 0:
            return Mesh(v_pos=level.new_zeros(0, 3), t_pos_idx=level.new_zeros(0, 3, dtype=torch.long))
        # Imported here: scikit-image takes a second, and only this method wants it.
        from skimage.measure import marching_cubes

        v_pos, faces, _, _ = marching_cubes(volume, 0.0, gradient_direction="descent")
        low, high = self.points_range
        v_pos = torch.from_numpy(v_pos.copy()).to(level) * ((high - low) / (self.resolution - 1)) + low
        return Mesh(v_pos=v_pos, t_pos_idx=torch.from_numpy(faces.astype(np.int64)).to(level.device))


def _load_grid(path: str) -> tuple[Tensor, Tensor]:
    with np.load(path) as grid:
        if not {"vertices", "indices"} <= set(grid):
            raise UserError(f"{path} holds {', '.join(grid)}; a tetrahedral grid has vertices and indices")
        return torch.from_numpy(grid["vertices"]).float(), torch.from_numpy(grid["indices"]).long()
