"""Occupancy grid: marching against a loop over rays and steps, renewal by hand-made numbers."""

import math

import pytest
import torch
import torch.nn.functional as F

import backends.occupancy
from backends.occupancy import OccGridEstimator, ray_aabb_intersect
from backends.volrend import accumulate_along_rays, render_weight_from_density

BOX = [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]


def rays(n=40):
    """Rays from outside and inside of the box, some parallel to axes, some missing it."""
    origins = torch.cat([F.normalize(torch.randn(n, 3), dim=-1) * 2.5, torch.rand(8, 3) - 0.5])
    targets = torch.randn(n + 8, 3) * 0.5
    directions = F.normalize(targets - origins, dim=-1)
    directions[:2] = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    origins[:2] = torch.tensor([[0.3, 0.2, -2.0], [-2.0, 1.5, 0.0]])  # through the box, beside the box
    return origins, directions


def test_box_intersection_closed_forms():
    origins = torch.tensor([[-3.0, 0, 0], [0, 0, 0], [-3, 2, 0], [3, 0, 0], [-3, -3, -3]])
    directions = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0], [3**-0.5] * 3])
    enter, leave = ray_aabb_intersect(origins, directions, torch.tensor(BOX))
    assert enter[[0, 1]].tolist() == pytest.approx([2.0, 0.0])
    assert leave[[0, 1]].tolist() == pytest.approx([4.0, 1.0])
    assert (enter >= leave)[[2, 3]].all()  # beside the box, behind the origin
    assert (enter[4].item(), leave[4].item()) == pytest.approx((2 * 3**0.5, 4 * 3**0.5))
    near, far = ray_aabb_intersect(origins[:1], directions[:1], torch.tensor(BOX), near_plane=2.5, far_plane=3.0)
    assert (near.item(), far.item()) == (2.5, 3.0)


@pytest.mark.parametrize("table_size", [1 << 22, 100])
def test_marching_equals_a_loop_over_rays_and_steps(monkeypatch, table_size):
    monkeypatch.setattr(backends.occupancy, "TABLE_SIZE", table_size)  # 100: many blocks of rays
    grid = OccGridEstimator([-1, -1, -1, 1, 1, 1], resolution=(4, 5, 6))
    grid.binaries = torch.rand(1, 4, 5, 6) < 0.3
    grid.binaries[0, 0] = False
    origins, directions = rays()
    step = 0.11
    index, t_starts, t_ends = grid.sampling(origins, directions, render_step_size=step)
    torch.testing.assert_close(t_ends - t_starts, torch.full_like(t_starts, step))

    enter, leave = ray_aabb_intersect(origins, directions, torch.tensor(BOX))
    expected = []
    for ray in range(len(origins)):
        for k in range(100):
            middle = enter[ray].item() + (k + 0.5) * step
            if middle > leave[ray]:
                break
            cell = ((origins[ray] + middle * directions[ray] + 1) / 2 * torch.tensor([4.0, 5, 6])).floor().int()
            if (cell >= 0).all() and (cell < torch.tensor([4, 5, 6])).all() and grid.binaries[(0, *cell)]:
                expected.append((ray, middle))
    assert index.tolist() == [ray for ray, _ in expected]
    torch.testing.assert_close(t_starts + step / 2, torch.tensor([t for _, t in expected]))
    assert 100 < len(expected) < 1000


def test_empty_grid_and_missing_rays_give_no_samples():
    grid = OccGridEstimator(BOX, resolution=4)
    origins, directions = rays()
    assert len(grid.sampling(origins, directions, render_step_size=0.1)[0]) == 0
    grid.binaries.fill_(True)
    away = torch.tensor([[3.0, 0, 0]])
    assert len(grid.sampling(away, torch.tensor([[1.0, 0, 0]]), render_step_size=0.1)[0]) == 0


def test_stratified_shifts_each_ray_by_its_own_share_of_a_step():
    grid = OccGridEstimator(BOX, resolution=4)
    grid.binaries.fill_(True)
    origins = torch.tensor([[-3.0, 0, 0]]).expand(200, 3)
    directions = torch.tensor([[1.0, 0, 0]]).expand(200, 3)
    torch.manual_seed(3)
    index, t_starts, _ = grid.sampling(origins, directions, render_step_size=0.1, stratified=True)
    first = torch.full((200,), math.inf).scatter_reduce(0, index, t_starts, "amin") - 2.0
    assert first.min() >= 0 and first.max() < 0.1
    assert first.mean().item() == pytest.approx(0.05, abs=4 * 0.1 / math.sqrt(12 * 200))
    torch.manual_seed(3)
    again = grid.sampling(origins, directions, render_step_size=0.1, stratified=True)
    assert torch.equal(again[1], t_starts)


def test_ball_of_constant_density_has_the_opacity_of_its_chords():
    grid = OccGridEstimator(BOX, resolution=32)
    density, radius, step = 5.0, 0.5, 0.004

    def occupied(points):
        return (points.norm(dim=-1, keepdim=True) < radius).float()

    for step_number in range(0, 64, 16):  # four random points per cell: cells that are hardly touched may be missed
        grid.update_every_n_steps(step_number, occupied, occ_thre=0.01)
    offsets = torch.linspace(0, 0.6, 13)
    origins = torch.stack([torch.full((13,), -2.0), offsets, torch.zeros(13)], -1)
    directions = torch.tensor([[1.0, 0, 0]]).expand(13, 3)
    index, t_starts, t_ends = grid.sampling(origins, directions, render_step_size=step)
    points = origins[index] + directions[index] * ((t_starts + t_ends) / 2)[:, None]
    weights, *_ = render_weight_from_density(t_starts, t_ends, density * occupied(points)[:, 0], index, 13)
    opacity = accumulate_along_rays(weights, None, index, 13)[:, 0]
    chord = 2 * (radius**2 - offsets**2).clamp_min(0).sqrt()
    # the chord is known to one step at each end: error at most 2 · density · step · exp(-density · chord)
    assert ((opacity - (1 - torch.exp(-density * chord))).abs() < 2 * density * step).all()
    assert (opacity[offsets > radius] == 0).all() and opacity[0] > 0.99


def test_skipping_hidden_and_empty_samples_hardly_changes_the_opacity():
    grid = OccGridEstimator(BOX, resolution=8)
    grid.binaries.fill_(True)
    grid.occs.fill_(1.0)
    origins, directions = rays(200)

    def density(points):
        return 60 * (0.5 - points.norm(dim=-1)).clamp_min(0)

    def opacity(sigma_fn):
        index, t_starts, t_ends = grid.sampling(
            origins, directions, sigma_fn=sigma_fn, render_step_size=0.02, alpha_thre=1e-3
        )
        points = origins[index] + directions[index] * ((t_starts + t_ends) / 2)[:, None]
        weights, *_ = render_weight_from_density(t_starts, t_ends, density(points), index, len(origins))
        return accumulate_along_rays(weights, None, index, len(origins)), len(index)

    def sigma_fn(t_starts, t_ends, index):
        return density(origins[index] + directions[index] * ((t_starts + t_ends) / 2)[:, None])

    def alpha_fn(t_starts, t_ends, index):
        return 1 - torch.exp(-sigma_fn(t_starts, t_ends, index) * 0.02)

    full, n_full = opacity(None)
    culled, n_culled = opacity(sigma_fn)
    assert n_culled < n_full / 3
    # dropped: what lies behind T = 1e-4, and samples of α < 1e-3, of which a ray grazes a few at most
    torch.testing.assert_close(culled, full, atol=5e-3, rtol=0)
    by_alpha = grid.sampling(origins, directions, alpha_fn=alpha_fn, render_step_size=0.02, alpha_thre=1e-3)
    assert abs(len(by_alpha[0]) - n_culled) < 0.01 * n_culled  # rounding at the thresholds


def test_steps_of_growing_length_are_refused():
    with pytest.raises(ValueError, match=r"cone_angle=0.1.*choices: 0"):
        OccGridEstimator(BOX, resolution=2).sampling(*rays(), cone_angle=0.1)


def test_update_keeps_a_decayed_maximum():
    grid = OccGridEstimator(BOX, resolution=2)
    first = torch.tensor([0.0, 0.2, 0.004, 0.0, 0.0, 0.0, 0.0, 0.5])
    answers = iter([first, torch.full((8,), 0.1)])
    asked = []

    def occupancy(points):
        asked.append(points)
        return next(answers)[:, None]

    grid.update_every_n_steps(0, occupancy, occ_thre=0.01, ema_decay=0.5)
    torch.testing.assert_close(grid.occs, first)
    assert grid.binaries.flatten().tolist() == [False, True, False, False, False, False, False, True]
    centres = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * 3)  # x slowest
    assert ((asked[0] - centres).abs() <= 0.5).all()

    grid.update_every_n_steps(7, occupancy, ema_decay=0.5)  # not a multiple of 16: nothing is asked
    assert len(asked) == 1
    grid.update_every_n_steps(16, occupancy, occ_thre=0.01, ema_decay=0.5)
    torch.testing.assert_close(grid.occs, torch.maximum(first * 0.5, torch.full((8,), 0.1)))
    assert grid.binaries.all()


def test_threshold_is_the_mean_while_everything_is_thin():
    grid = OccGridEstimator(BOX, resolution=2)
    thin = torch.tensor([1e-4, 3e-4] * 4)
    grid.update_every_n_steps(0, lambda points: thin[:, None], occ_thre=0.01)
    assert grid.binaries.flatten().tolist() == [False, True] * 4


def test_after_warm_up_a_part_of_the_cells_is_asked_each_once():
    grid = OccGridEstimator(BOX, resolution=8)
    grid.update_every_n_steps(0, lambda points: (points[:, :1] > 0.75).float())
    occupied = grid.binaries.sum().item()
    assert occupied == 64  # the last layer of cells
    asked = []

    def occupancy(points):
        asked.append(points)
        return torch.zeros(len(points), 1)

    grid.update_every_n_steps(256, occupancy, ema_decay=0.5)
    cells = ((asked[0] + 1) * 4).long()
    flat = (cells[:, 0] * 8 + cells[:, 1]) * 8 + cells[:, 2]
    assert len(flat.unique()) == len(flat) <= 512 // 4 + occupied
    assert (cells[:, 0] == 7).sum() == 64  # all occupied ones are among them
    assert grid.occs.view(8, 8, 8)[7].unique().tolist() == [0.5]


def test_state_dict_holds_the_grid():
    grid = OccGridEstimator(BOX, resolution=4)
    grid.update_every_n_steps(0, lambda points: points[:, :1].abs())
    state = grid.state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "resolution": (3,),
        "aabbs": (1, 6),
        "occs": (64,),
        "binaries": (1, 4, 4, 4),
    }
    other = OccGridEstimator(BOX, resolution=4)
    other.load_state_dict(state)
    assert torch.equal(other.binaries, grid.binaries) and torch.equal(other.occs, grid.occs)


def test_more_levels_are_refused():
    with pytest.raises(ValueError, match="levels=2.*choices: 1"):
        OccGridEstimator(BOX, levels=2)
