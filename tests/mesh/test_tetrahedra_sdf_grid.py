"""The surface geometry: start from shapes, fields and grids, stay closed, refuse what has no surface."""

import math

import pytest
import torch
import trimesh
from scenes import FEATURES, grid, volume

from backends.level_cleanup import clean_levels
from backends.tetrahedra import tetrahedra_edges, tetrahedral_grid
from threestudio.models.geometry.tetrahedra_sdf_grid import TetrahedraSDFGrid
from threestudio.models.geometry.volume_grid import VolumeGrid


def _solid(mesh):
    return trimesh.Trimesh(mesh.v_pos.detach().numpy(), mesh.t_pos_idx.numpy(), process=False)


@pytest.mark.parametrize(
    "shape, params, expected",
    [("sphere", 0.5, 4 / 3 * math.pi * 0.5**3), ("ellipsoid", [0.8, 0.5, 0.4], 4 / 3 * math.pi * 0.8 * 0.5 * 0.4)],
)
def test_shape_init(shape, params, expected):
    solid = _solid(grid(shape_init=shape, shape_init_params=params).isosurface())
    assert solid.is_watertight and solid.euler_number == 2
    # 24 layers over a width of 2: chords lose up to h^2 / (8 r^2) of the smallest radius, 0.5 to 4 %.
    assert solid.volume == pytest.approx(expected, rel=0.05)


def test_parameters_and_saved_names():
    free, fixed = grid(), grid(fix_geometry=True, isosurface_deformable_grid=False)
    assert {"sdf", "deformation"} <= dict(free.named_parameters()).keys()
    assert not {"sdf", "deformation"} & dict(fixed.named_parameters()).keys()
    assert {"sdf", "deformation", "bbox", "isosurface_bbox"} <= free.state_dict().keys()
    assert "sdf" in fixed.state_dict() and fixed.deformation is None
    assert "encoding" not in "".join(grid(geometry_only=True).state_dict())


def test_a_fixed_mesh_is_extracted_once_and_anew_after_loading():
    fixed = grid(fix_geometry=True)
    first = fixed.isosurface()
    assert fixed.isosurface() is first and not first.requires_grad
    fixed.load_state_dict(grid(fix_geometry=True, shape_init_params=0.3).state_dict())
    assert _solid(fixed.isosurface()).volume < 0.5 * _solid(first).volume
    free = grid()
    assert free.isosurface() is not free.isosurface()


def test_shape_is_kept_unless_forced():
    for force in (False, True):
        geometry = grid(force_shape_init=force)
        geometry.load_state_dict(grid(shape_init_params=0.25).state_dict())
        geometry.initialize_shape()
        assert bool(_solid(geometry.isosurface()).volume > 0.3) is force


@pytest.mark.parametrize("geometry_only", [False, True])
def test_features(geometry_only):
    geometry = grid(geometry_only=geometry_only)
    out = geometry(torch.zeros(2, 5, 3))
    assert geometry.export(torch.zeros(2, 5, 3)).keys() == out.keys()
    assert out == {} if geometry_only else out["features"].shape == (2, 5, 3)
    with pytest.raises(ValueError, match="normals on its mesh only"):
        geometry(torch.zeros(1, 3), output_normal=True)


def test_conversion_keeps_the_surface_of_the_field(caplog):
    """Levels are rescaled and cut far away; the surface must stay where the field put it."""
    field = volume()
    caplog.set_level("INFO")
    geometry = TetrahedraSDFGrid.create_from(field, {"isosurface_resolution": 24, **FEATURES})
    ours, direct = geometry.isosurface(), field.isosurface()
    assert geometry.sdf.abs().max() <= 1
    assert torch.equal(ours.t_pos_idx, direct.t_pos_idx)
    # 5 % of the crossed edges may have an end that was cut; the box is 0.6 wide, its layers 0.025 apart.
    torch.testing.assert_close(ours.v_pos, direct.v_pos, atol=0.006, rtol=0)
    assert ((ours.v_pos - direct.v_pos).norm(dim=-1) < 1e-5).float().mean() > 0.8
    assert "converted to a mesh of" in caplog.text
    for name, value in field.encoding.state_dict().items():
        assert torch.equal(geometry.encoding.state_dict()[name], value)
    points = torch.rand(20, 3) - 0.5
    torch.testing.assert_close(geometry(points)["features"], field.export(points)["features"])
    # The field is as it was.
    assert field.cfg.isosurface_resolution == 24 and field.cfg.isosurface_method == "mt"


def test_automatic_threshold_is_reported(caplog):
    caplog.set_level("INFO")
    TetrahedraSDFGrid.create_from(volume(isosurface_threshold="auto"), {"isosurface_resolution": 16, **FEATURES})
    assert "isosurface_threshold=auto: " in caplog.text


def test_conversion_of_marching_cubes_and_grids():
    field = VolumeGrid({"grid_size": [8, 8, 8], "isosurface_method": "mc-cpu", "isosurface_resolution": 12})
    geometry = TetrahedraSDFGrid.create_from(field, {"isosurface_resolution": 16, **FEATURES})
    assert _solid(geometry.isosurface()).is_watertight
    assert field.cfg.isosurface_method == "mc-cpu" and field.cfg.isosurface_resolution == 12
    assert field.isosurface_helper is None


def test_a_grid_continues_as_it_is():
    first = grid()
    first.deformation.data.normal_()
    second = TetrahedraSDFGrid.create_from(first, {"isosurface_resolution": 24, "fix_geometry": True, **FEATURES})
    torch.testing.assert_close(second.isosurface().v_pos, first.isosurface().v_pos)
    fresh = TetrahedraSDFGrid.create_from(first, {"isosurface_resolution": 24, **FEATURES}, copy_net=False)
    assert torch.equal(fresh.sdf, first.sdf)
    assert not torch.equal(fresh.feature_network.layers[0].weight, first.feature_network.layers[0].weight)


@pytest.mark.parametrize(
    "start, cfg, message",
    [
        (lambda: volume(isosurface_threshold=1e6), {}, r"cannot convert to a mesh: .*choose a value between .*auto"),
        (lambda: volume(radius=2.0), {}, r"geometry.radius=1.0 differs from the radius 2.0"),
        (lambda: grid(isosurface_resolution=8), {}, r"geometry.isosurface_resolution=16, but .* has 8"),
        (volume, {"n_feature_dims": 5}, r"geometry.feature_network does not fit"),
        (lambda: torch.nn.Identity(), {}, r"starts from a field or another grid, not from a Identity"),
    ],
)
def test_what_does_not_fit_is_refused(start, cfg, message):
    with pytest.raises((ValueError, TypeError), match=message):
        TetrahedraSDFGrid.create_from(start(), {"isosurface_resolution": 16, **FEATURES, **cfg})


def test_no_surface_and_bad_values_are_named():
    with pytest.raises(ValueError, match=r"no surface: give it a shape .*geometry_convert_from"):
        grid(shape_init=None).isosurface()
    with pytest.raises(ValueError, match="geometry.shape_init=cube; choices: ellipsoid, sphere, mesh:FILE, null"):
        grid(shape_init="cube")
    with pytest.raises(ValueError, match="shape_init=sphere needs geometry.shape_init_params"):
        grid(shape_init_params=None)


def test_eikonal_is_zero_for_a_distance_and_feels_a_distortion():
    geometry = grid()
    smooth = geometry.eikonal()
    # Chords of the ball's distance function: slopes along edges vary by the cosine of their angle to the normal.
    geometry.sdf.data *= 7
    torch.testing.assert_close(geometry.eikonal(), smooth)
    geometry.sdf.data *= 1 + 0.9 * torch.rand_like(geometry.sdf)
    assert geometry.eikonal() > smooth
    geometry.eikonal().backward()
    assert geometry.sdf.grad.abs().sum() > 0


def test_clean_levels_removes_specks_and_fills_cavities():
    vertices, tets = tetrahedral_grid(32)
    edges = tetrahedra_edges(tets)
    boundary = ((vertices == 0) | (vertices == 1)).any(-1)

    def distance(centre, radius):
        return (vertices - torch.tensor(centre)).norm(dim=-1) - radius

    ball, hole, speck = distance([0.5, 0.5, 0.5], 0.35), distance([0.55, 0.5, 0.5], 0.12), distance([0.9] * 3, 0.06)
    twin = distance([0.1, 0.1, 0.1], 0.09)
    dirty = torch.minimum(torch.minimum(torch.maximum(ball, -hole), speck), twin)
    level, n_specks, n_cavities = clean_levels(dirty, vertices, edges, boundary, min_share=0.1)
    assert (n_specks, n_cavities) == (2, 1)
    assert torch.equal(level <= 0, ball <= 0)
    torch.testing.assert_close(level.abs(), dirty.abs(), atol=1e-30, rtol=0)
    # the twin fills (0.09 / 0.35)^2 = 6 % of a picture and the speck 3 %, plus half a cell of 0.054 all around
    kept, n_specks, _ = clean_levels(dirty, vertices, edges, boundary, min_share=0.07)
    assert n_specks == 1 and torch.equal(kept <= 0, (ball <= 0) | (twin <= 0))
    none, *counts = clean_levels(torch.ones(len(vertices)), vertices, edges, boundary, min_share=0.1)
    assert counts == [0, 0] and (none > 0).all()


def test_a_loose_leaf_stays_and_a_lump_that_nobody_sees_goes():
    """What counts is the part's picture, not its size: a leaf has less than 1 % of the points and is seen, a lump of
    more points inside a shell is never seen."""
    vertices, tets = tetrahedral_grid(32)
    edges, boundary = tetrahedra_edges(tets), ((vertices == 0) | (vertices == 1)).any(-1)
    centre = vertices - 0.45
    leaf = torch.maximum((vertices[:, 0] - 0.93).abs() - 0.02, (vertices[:, 1:] - 0.45).norm(dim=-1) - 0.12)
    shell = (centre.norm(dim=-1) - 0.37).abs() - 0.06
    lump = centre.norm(dim=-1) - 0.12
    dirty = torch.minimum(torch.minimum(leaf, shell), lump)
    assert 0 < (leaf <= 0).sum() < 0.01 * (shell <= 0).sum() < (lump <= 0).sum()
    level, n_specks, n_cavities = clean_levels(dirty, vertices, edges, boundary, min_share=0.01)
    assert n_specks == 1 and n_cavities == 1
    # the lump goes, and then the empty room in which it was is filled
    assert torch.equal(level <= 0, torch.minimum(leaf, centre.norm(dim=-1) - 0.43) <= 0)
