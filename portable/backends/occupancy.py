"""Occupancy grid and ray marching that skips empty space (Instant-NGP's, with nerfacc 0.5's interface), in torch.

The grid remembers an exponentially decayed maximum of the opacity of one step in each cell; cells below a threshold
are empty. Marching happens for all rays at once: rays are clipped to the bounding box of the occupied cells, the
remaining (ray, step) table is looked up in the grid in one go, and only hits are kept as packed samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from backends.volrend import render_visibility_from_density

# (ray, step) table entries looked up at once: bounds memory (about 40 bytes each) for large evaluation images
TABLE_SIZE = 1 << 22


def ray_aabb_intersect(
    rays_o: Float[Tensor, "r 3"],
    rays_d: Float[Tensor, "r 3"],
    aabb: Float[Tensor, "6"],
    near_plane: float = 0.0,
    far_plane: float = 1e10,
) -> tuple[Float[Tensor, "r"], Float[Tensor, "r"]]:
    """Distances where rays enter and leave the box (min xyz, max xyz); entry ≥ exit where a ray misses it."""
    # a direction component of 0 would give 0/0 for a ray inside a face plane; a tiny one keeps the slab test finite
    tiny = torch.finfo(rays_d.dtype).tiny ** 0.5
    inverse = 1.0 / torch.where(rays_d.abs() < tiny, tiny, rays_d)
    to_min, to_max = (aabb[:3] - rays_o) * inverse, (aabb[3:] - rays_o) * inverse
    enter = torch.minimum(to_min, to_max).amax(-1).clamp(near_plane, far_plane)
    leave = torch.maximum(to_min, to_max).amin(-1).clamp(near_plane, far_plane)
    return enter, leave


class OccGridEstimator(nn.Module):
    """Occupancy of an axis-aligned box on a regular grid, and ray samples in its occupied cells.

    Buffers (all in ``state_dict``, named and shaped as nerfacc's): ``occs`` (R_x R_y R_z,) the decayed maximum,
    ``binaries`` (1, R_x, R_y, R_z) what counts as occupied, ``aabbs`` (1, 6), ``resolution`` (3,).
    Unsupported beside nerfacc's: more than one level, a cone_angle other than 0, per-ray t_min and t_max.

    Args:
        roi_aabb: box as min x, y, z, max x, y, z.
        resolution: number of cells, one int or one per axis.
        levels: only 1.
    """

    def __init__(self, roi_aabb: Sequence[float] | Tensor, resolution: int | Sequence[int] = 128, levels: int = 1):
        super().__init__()
        if levels != 1:
            raise ValueError(f"levels={levels}: the torch occupancy grid has one level; choices: 1")
        cells = (resolution,) * 3 if isinstance(resolution, int) else tuple(resolution)
        self.register_buffer("resolution", torch.tensor(cells, dtype=torch.int32))
        self.register_buffer("aabbs", torch.as_tensor(roi_aabb, dtype=torch.float32).reshape(1, 6).clone())
        self.register_buffer("occs", torch.zeros(cells[0] * cells[1] * cells[2]))
        self.register_buffer("binaries", torch.zeros(1, *cells, dtype=torch.bool))

    @property
    def device(self) -> torch.device:
        return self.occs.device

    # ------------------------------------------------------------------------------------------------ sampling

    @torch.no_grad()
    def sampling(
        self,
        rays_o: Float[Tensor, "r 3"],
        rays_d: Float[Tensor, "r 3"],
        sigma_fn: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        alpha_fn: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        near_plane: float = 0.0,
        far_plane: float = 1e10,
        render_step_size: float = 1e-3,
        early_stop_eps: float = 1e-4,
        alpha_thre: float = 0.0,
        stratified: bool = False,
        cone_angle: float = 0.0,
    ) -> tuple[Int[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, "n"]]:
        """(ray_indices, t_starts, t_ends) of steps of ``render_step_size`` whose middle lies in an occupied cell.

        Args:
            rays_o, rays_d: origins and unit directions.
            sigma_fn: (t_starts, t_ends, ray_indices) -> densities (n,). When given, samples that cannot be seen
                (T < ``early_stop_eps``) or are nearly empty (α < ``alpha_thre``) are dropped as well.
            alpha_fn: the same with opacities of one step in place of densities.
            near_plane, far_plane: distances between which samples lie.
            early_stop_eps, alpha_thre: thresholds for ``sigma_fn``; alpha_thre is capped by the grid's mean
                occupancy, so that a young, thin field is not pruned to nothing.
            stratified: shift the samples of each ray by one random share of a step (global torch generator).
            cone_angle: only 0: all steps have one length.
        """
        if cone_angle != 0:
            raise ValueError(f"cone_angle={cone_angle}: the torch occupancy grid takes equal steps; choices: 0")
        ray_indices, t_starts = self._march(rays_o, rays_d, near_plane, far_plane, render_step_size, stratified)
        t_ends = t_starts + render_step_size
        if sigma_fn is None and alpha_fn is not None:

            def sigma_fn(t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor) -> Tensor:
                # the density that makes this opacity in one step; finite for α = 1
                alphas = alpha_fn(t_starts, t_ends, ray_indices).clamp(0, 1 - 1e-6)
                return -torch.log1p(-alphas) / render_step_size

        if sigma_fn is not None and len(t_starts) and (early_stop_eps > 0 or alpha_thre > 0):
            seen = render_visibility_from_density(
                t_starts,
                t_ends,
                sigma_fn(t_starts, t_ends, ray_indices).reshape(-1),
                ray_indices,
                len(rays_o),
                early_stop_eps,
                min(alpha_thre, self.occs.mean().item()),
            )
            ray_indices, t_starts, t_ends = ray_indices[seen], t_starts[seen], t_ends[seen]
        return ray_indices, t_starts, t_ends

    def _march(self, rays_o, rays_d, near_plane, far_plane, step, stratified) -> tuple[Tensor, Tensor]:
        """(ray_indices, t_starts) of the steps that fall into occupied cells; steps are counted from the box's face."""
        t_enter, t_leave = ray_aabb_intersect(rays_o, rays_d, self.aabbs[0], near_plane, far_plane)
        if stratified:
            t_enter = t_enter + torch.rand_like(t_enter) * step
        # numbers of the first and the last step whose middle lies in the box of occupied cells
        tight_enter, tight_leave = ray_aabb_intersect(rays_o, rays_d, self._occupied_aabb(), near_plane, far_plane)
        first = ((tight_enter - t_enter) / step - 0.5).ceil().clamp_min(0)
        last = ((torch.minimum(tight_leave, t_leave) - t_enter) / step - 0.5).floor()
        rays = ((last >= first) & (tight_enter < tight_leave)).nonzero()[:, 0]
        if len(rays) == 0:
            return rays, t_enter.new_empty(0)

        n_steps = (last - first)[rays] + 1
        t_first = t_enter[rays] + first[rays] * step
        cell_size = (self.aabbs[0, 3:] - self.aabbs[0, :3]) / self.resolution
        origins = (rays_o[rays] - self.aabbs[0, :3]) / cell_size  # in cells
        directions = rays_d[rays] / cell_size
        columns = torch.arange(int(n_steps.max()), device=rays_o.device)
        # one empty layer at the upper faces takes the steps that rounding puts on them
        occupied = nn.functional.pad(self.binaries[0], (0, 1, 0, 1, 0, 1))
        block = max(1, TABLE_SIZE // len(columns))
        found_rays, found_t = [], []
        for rows in torch.arange(len(rays), device=rays.device).split(block):
            t_starts = t_first[rows, None] + columns * step
            hit = _lookup(occupied, origins[rows], directions[rows], t_starts + 0.5 * step)
            hit &= columns < n_steps[rows, None]
            row, column = hit.nonzero(as_tuple=True)
            found_rays.append(rays[rows[row]])
            found_t.append(t_starts[row, column])
        return torch.cat(found_rays), torch.cat(found_t)

    def _occupied_aabb(self) -> Float[Tensor, "6"]:
        """Box of the occupied cells; an empty one (min = max) when there are none."""
        lower, upper = self.aabbs[0, :3], self.aabbs[0, 3:]
        bounds = []
        for axis in range(3):
            along = self.binaries[0].any(dim=(axis + 1) % 3, keepdim=True).any(dim=(axis + 2) % 3, keepdim=True)
            used = along.reshape(-1).nonzero()[:, 0]
            bounds.append((used[0], used[-1] + 1) if len(used) else (used.new_zeros(()),) * 2)
        first, end = (torch.stack(side).to(lower.dtype) for side in zip(*bounds))
        return torch.cat([lower + (upper - lower) * cells / self.resolution for cells in (first, end)])

    # -------------------------------------------------------------------------------------------------- update

    @torch.no_grad()
    def update_every_n_steps(
        self,
        step: int,
        occ_eval_fn: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 1"]],
        occ_thre: float = 1e-2,
        ema_decay: float = 0.95,
        warmup_steps: int = 256,
        n: int = 16,
    ) -> None:
        """Every ``n`` steps, ask ``occ_eval_fn`` (points -> opacity of one step) in the cells and renew the grid.

        Until ``warmup_steps`` all cells are asked, later a random quarter and as many of the occupied ones. The
        point in each cell is random (global torch generator). Occupied: above ``occ_thre`` or, if lower, the mean.
        """
        if step % n != 0:
            return
        cells = self._all_cells() if step < warmup_steps else self._some_cells(self.occs.numel() // 4)
        coordinates = torch.stack(torch.unravel_index(cells, self.binaries.shape[1:]), dim=-1)
        unit = (coordinates + torch.rand(len(cells), 3, device=self.device)) / self.resolution
        points = torch.lerp(self.aabbs[0, :3], self.aabbs[0, 3:], unit)
        opacity = occ_eval_fn(points).reshape(-1).to(self.occs.dtype)
        self.occs[cells] = torch.maximum(self.occs[cells] * ema_decay, opacity)
        self.binaries = (self.occs > self.occs.mean().clamp(max=occ_thre)).view_as(self.binaries)

    def _all_cells(self) -> Int[Tensor, "n"]:
        return torch.arange(self.occs.numel(), device=self.device)

    def _some_cells(self, count: int) -> Int[Tensor, "n"]:
        """Flat numbers of ``count`` random cells and of at most ``count`` random occupied ones."""
        uniform = torch.randint(self.occs.numel(), (count,), device=self.device)
        occupied = self.binaries.reshape(-1).nonzero()[:, 0]
        if len(occupied) > count:
            occupied = occupied[torch.randint(len(occupied), (count,), device=self.device)]
        # once each: with duplicates the value that stays would depend on the number of threads
        return torch.cat([uniform, occupied]).unique()


def _lookup(occupied: Tensor, origins: Tensor, directions: Tensor, t: Float[Tensor, "r k"]) -> Tensor:
    """Whether the cells at origins + t directions (in cells, inside the grid up to rounding) are occupied, (r, k)."""
    flat = torch.zeros_like(t, dtype=torch.int32)
    for axis in range(3):
        cell = torch.addcmul(origins[:, axis, None], t, directions[:, axis, None]).int().clamp_(0)
        flat = flat.mul_(occupied.shape[axis]).add_(cell.clamp_(max=occupied.shape[axis] - 1))
    return occupied.reshape(-1)[flat]
