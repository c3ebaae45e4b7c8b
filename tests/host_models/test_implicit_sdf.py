"""Signed distance fields: the shapes they start from, their slopes, and the grids that start from them."""

import math

import pytest
import torch
import trimesh
from mesh.scenes import FEATURES

from threestudio.models.geometry import implicit_sdf
from threestudio.models.geometry.implicit_sdf import ImplicitSDF
from threestudio.models.geometry.shape_init import oriented_mesh, shape_level
from threestudio.models.geometry.tetrahedra_sdf_grid import TetrahedraSDFGrid

SMALL = {**FEATURES, "isosurface_resolution": 24, "isosurface_coarse_to_fine": False}


def _solid(mesh):
    return trimesh.Trimesh(mesh.v_pos.detach().numpy(), mesh.t_pos_idx.numpy(), process=False)


def biased(**cfg) -> ImplicitSDF:
    """A ball of radius 0.5 by bias alone (zeroed network)."""
    field = ImplicitSDF({"sdf_bias": "sphere", "sdf_bias_params": 0.5, **SMALL, **cfg})
    for parameter in field.sdf_network.parameters():
        parameter.data.zero_()
    return field


@pytest.mark.parametrize("kind", implicit_sdf.NORMAL_TYPES)
def test_slopes_point_outwards(kind):
    field = biased(normal_type=kind)
    points = torch.tensor([[0.5, 0.0, 0.0], [0.0, -0.3, 0.4], [0.2, 0.2, 0.2]])
    out = field(points, output_normal=True)
    torch.testing.assert_close(out["sdf"][:, 0], points.norm(dim=-1) - 0.5)
    assert out["features"].shape == (3, 3)
    if kind != "pred":
        expected = points / points.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(out["normal"], expected, atol=0.02, rtol=0)
        torch.testing.assert_close(out["sdf_grad"].norm(dim=-1), torch.ones(3), atol=0.02, rtol=0)


def test_surface_and_what_trains_it():
    field = biased(isosurface_deformable_grid=True, n_feature_dims=0)
    mesh = field.isosurface()
    assert _solid(mesh).is_watertight and _solid(mesh).volume > 0
    mesh.v_pos.square().sum().backward()
    for network in (field.sdf_network, field.deformation_network):
        assert all(p.grad is not None for p in network.parameters())
    assert field.export(torch.zeros(1, 3)) == {}


def test_grid_takes_over_shape_deformation_and_features():
    field = biased(isosurface_deformable_grid=True)
    grid = TetrahedraSDFGrid.create_from(field, {**FEATURES, "isosurface_resolution": 24})
    ball = 4 / 3 * math.pi * 0.5**3
    assert _solid(grid.isosurface()).volume == pytest.approx(ball, rel=0.05)
    assert grid.deformation.abs().sum() > 0
    points = torch.rand(4, 3)
    torch.testing.assert_close(grid(points)["features"], field(points)["features"])


def test_networks_learn_the_first_shape(monkeypatch):
    monkeypatch.setattr(implicit_sdf, "FIT_STEPS", 150)
    monkeypatch.setattr(implicit_sdf, "FIT_POINTS", 1000)
    monkeypatch.setattr(implicit_sdf, "FIT_RATE", 1e-2)
    field = ImplicitSDF({"shape_init": "ellipsoid", "shape_init_params": [0.5, 0.5, 0.8], **SMALL})
    field.initialize_shape()
    size = _solid(field.isosurface()).extents / 2
    assert abs(size - [0.5, 0.5, 0.8]).max() < 0.12
    assert all(parameter.grad is None for parameter in field.parameters())


def test_a_mesh_file_as_the_first_shape(tmp_path):
    """Up and front of the file's own axes become z and x; the largest coordinate is what was asked for."""
    box = trimesh.creation.box(extents=(1.0, 4.0, 2.0))
    box.apply_translation((3, 0, 0))
    box.export(tmp_path / "box.obj")
    vertices, _ = oriented_mesh(str(tmp_path / "box.obj"), 0.8, up="+y", front="+z")
    assert abs(vertices.max(0) - [0.4, 0.2, 0.8]).max() < 1e-6
    cfg = {"shape_init": f"mesh:{tmp_path / 'box.obj'}", "shape_init_params": 0.8}
    cfg |= {"shape_init_mesh_up": "+y", "shape_init_mesh_front": "+z"}
    level = shape_level(TetrahedraSDFGrid({**cfg, **FEATURES, "isosurface_resolution": 6}).cfg)
    found = level(torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.7]]))
    torch.testing.assert_close(found[:, 0], torch.tensor([-0.2, 0.1, -0.1]), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"shape_init": "cube"}, "shape_init=cube; choices: ellipsoid, sphere, mesh:FILE"),
        ({"shape_init": "sphere"}, "needs geometry.shape_init_params"),
        ({"shape_init": "sphere", "shape_init_params": [1, 2]}, "a sphere has one radius"),
        ({"shape_init": "ellipsoid", "shape_init_params": 0.5}, "three half axes"),
        ({"shape_init": "mesh:no.obj", "shape_init_params": 0.5}, "mesh:no.obj: no such file"),
        ({"sdf_bias": "cube"}, "sdf_bias=cube; choices: a float, ellipsoid, sphere"),
        ({"normal_type": "guess"}, "normal_type=guess; choices"),
        ({"isosurface_deformable_grid": True, "isosurface_method": "mc-cpu"}, "needs isosurface_method=mt"),
    ],
)
def test_mistakes_are_named(cfg, message):
    with pytest.raises(ValueError, match=message):
        ImplicitSDF({**SMALL, **cfg}).initialize_shape()
