"""Isosurface helpers: the reference's sphere and deformation rule, closed shapes, marching cubes beside tetrahedra."""

import numpy as np
import pytest
import torch
import trimesh
from contract import CONTRACT, close

from backends.tetrahedra import tetrahedral_grid
from threestudio.models.isosurface import MarchingCubeCPUHelper, MarchingTetrahedraHelper

VALUES = CONTRACT["isosurface"]
SPHERE = VALUES["sphere_in_minus1_1_coordinates"]
LEVELS = {"inside positive: 0.5-|x|": -1, "inside negative: |x|-0.5": 1}


def _trimesh(mesh):
    v_pos = mesh.v_pos.detach() * 2 - 1
    return trimesh.Trimesh(v_pos.numpy(), mesh.t_pos_idx.numpy(), process=False)


def _sphere_level(helper, radius=0.5):
    return (helper.grid_vertices * 2 - 1).norm(dim=-1, keepdim=True) - radius


@pytest.mark.parametrize("case", SPHERE["cases"], ids=lambda c: c["level"][:15])
def test_sphere_is_the_reference_one_up_to_the_grid(case):
    helper = MarchingTetrahedraHelper(VALUES["grid"]["resolution"])
    inside_negative = LEVELS[case["level"]] > 0
    level = _sphere_level(helper)
    if inside_negative:
        mesh = helper(level)
    else:  # the cube's sides would be inside, and are cut: the ball becomes a hole in a block
        helper.boundary.zero_()
        mesh = helper(-level)
    assert sorted(mesh.extras) == sorted(case["extras"])
    ball = _trimesh(mesh)
    assert ball.is_watertight and ball.euler_number == case["euler"]
    # Another grid of the same fineness: the reference is 2.5 % below the exact volume, this one 1.5 %.
    assert ball.volume == pytest.approx(case["signed_volume"], rel=0.03)
    assert ball.area == pytest.approx(case["area"], rel=0.03)
    radius = np.linalg.norm(ball.vertices, axis=-1)
    assert radius.max() <= 0.5 + 1e-6 and radius.min() >= case["radius_min"] - 1e-3


def test_deformation_rule():
    rule = VALUES["normalize_grid_deformation"]
    helper = MarchingTetrahedraHelper(rule["resolution"])
    assert list(helper.points_range) == rule["rule_range"]
    close(helper.normalize_grid_deformation(torch.tensor(rule["x"])), rule["out"])


def test_deformation_moves_the_surface_and_has_gradients():
    helper = MarchingTetrahedraHelper(16)
    level = _sphere_level(helper).requires_grad_()
    deformation = torch.full((len(helper.grid_vertices), 3), 0.3, requires_grad=True)
    plain, moved = helper(level), helper(level, deformation)
    shift = torch.tensor(0.3).tanh() / 16
    torch.testing.assert_close(moved.v_pos, plain.v_pos + shift, atol=1e-6, rtol=0)
    assert moved.requires_grad
    moved.v_pos.square().sum().backward()
    assert deformation.grad.abs().sum() > 0 and level.grad.abs().sum() > 0
    assert set(moved.extras) == {"grid_vertices", "tet_edges", "grid_level", "grid_deformation"}
    assert moved.extras["grid_deformation"] is deformation


@pytest.mark.parametrize("radius", [1.1, 1.5, 3.0])
def test_a_shape_that_leaves_the_cube_is_cut_closed(radius):
    helper = MarchingTetrahedraHelper(16)
    ball = _trimesh(helper(_sphere_level(helper, radius)))
    assert ball.is_watertight and ball.euler_number == 2 and ball.volume > 0
    assert np.abs(ball.vertices).max() <= 1


def test_nothing_but_the_resolution_is_stored():
    helper = MarchingTetrahedraHelper(6)
    assert helper.state_dict() == {}
    assert helper.all_edges.shape[1] == 2 and helper.all_edges is helper.all_edges


def test_grid_from_a_file(tmp_path):
    vertices, tets = tetrahedral_grid(8)
    np.savez(tmp_path / "grid.npz", vertices=vertices.numpy(), indices=tets.numpy())
    ours, theirs = MarchingTetrahedraHelper(8), MarchingTetrahedraHelper(8, str(tmp_path / "grid.npz"))
    level = _sphere_level(ours)
    assert torch.equal(ours(level).v_pos, theirs(level).v_pos)
    np.savez(tmp_path / "small.npz", vertices=tetrahedral_grid(2)[0].numpy(), indices=tetrahedral_grid(2)[1].numpy())
    assert len(MarchingTetrahedraHelper(8, str(tmp_path / "small.npz")).indices) == 12
    assert torch.equal(MarchingTetrahedraHelper(8, str(tmp_path / "absent.npz")).indices, tets)
    np.savez(tmp_path / "other.npz", points=vertices.numpy())
    with pytest.raises(ValueError, match="holds points; a tetrahedral grid has vertices and indices"):
        MarchingTetrahedraHelper(8, str(tmp_path / "other.npz"))


def test_marching_cubes_agrees_with_marching_tetrahedra():
    cubes, tets = MarchingCubeCPUHelper(33), MarchingTetrahedraHelper(32)
    a, b = _trimesh(cubes(_sphere_level(cubes))), _trimesh(tets(_sphere_level(tets)))
    assert a.is_watertight and a.euler_number == 2
    assert a.volume == pytest.approx(b.volume, rel=0.02)
    assert np.linalg.norm(a.vertices, axis=-1) == pytest.approx(0.5, abs=5e-3)
    assert len(cubes(torch.ones(33**3, 1)).v_pos) == 0


def test_marching_cubes_says_that_it_ignores_a_deformation(caplog):
    helper = MarchingCubeCPUHelper(9)
    with caplog.at_level("WARNING"):
        helper(_sphere_level(helper), torch.zeros(9**3, 3))
    assert "ignores the grid deformation" in caplog.text
