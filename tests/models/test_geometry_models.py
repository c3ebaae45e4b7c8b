"""Our own geometries: the surface that pictures show, and the pyramid in a host that does not know it."""

import math

import pytest
import torch
import trimesh
from mesh.scenes import FEATURES

import threestudio
from threestudio.models.geometry.tetrahedra_sdf_grid import TetrahedraSDFGrid
from uni_instruct_guidance.models import encoding
from uni_instruct_guidance.models.geometry import UniInstructTetrahedra, UniInstructVolume

PYRAMID = {"otype": "DenseGridPyramid", "n_levels": 3, "base_resolution": 4, "n_features_per_level": 2}
SMALL = {"pos_encoding_config": PYRAMID, "mlp_network_config": FEATURES["mlp_network_config"]}


def _solid(mesh):
    return trimesh.Trimesh(mesh.v_pos.detach().numpy(), mesh.t_pos_idx.numpy(), process=False)


def test_conversion_by_what_is_seen_closes_a_wall_of_uneven_density():
    """A hollow wall, ten times denser on one side: the mean density would open the other side."""

    class Wall(UniInstructVolume):
        def forward_density(self, points):
            radius = points.norm(dim=-1, keepdim=True)
            return ((radius - 0.3).relu() * (0.6 - radius).relu()) * (3e4 * (points[..., :1] > 0) + 3e3)

    field = Wall({"isosurface_threshold": "auto", "isosurface_resolution": 48, **FEATURES})
    solid = _solid(TetrahedraSDFGrid.create_from(field, {"isosurface_resolution": 48, **FEATURES}).isosurface())
    assert solid.is_watertight and solid.euler_number == 2
    # Looked straight at, an optical depth of ln 2 / 2 is reached at a radius of 0.571 on the thin side, 0.592 on the
    # other.
    # A grazing ray gathers as much farther out, to 0.6 at most; half a node, 0.0125, is the grid's own resolution.
    assert 4 / 3 * math.pi * 0.58**3 < solid.volume < 4 / 3 * math.pi * 0.6125**3
    field.cfg.surface = "threshold"
    opened = _solid(TetrahedraSDFGrid.create_from(field, {"isosurface_resolution": 48, **FEATURES}).isosurface())
    assert opened.volume < 0.8 * solid.volume


def test_a_field_without_a_surface_says_so():
    field = UniInstructVolume({"density_bias": -100.0, "isosurface_resolution": 8, **SMALL})
    with pytest.raises(ValueError, match="surface=opacity: nothing of the density.* hides anything"):
        field.isosurface()
    with pytest.raises(ValueError, match="geometry.surface=seen; choices: opacity, threshold"):
        UniInstructVolume({"surface": "seen", **SMALL})


@pytest.fixture(params=["knows the pyramid", "does not"])
def host(request, monkeypatch):
    if request.param == "does not":
        monkeypatch.setattr(encoding, "host_knows_pyramid", lambda: False)
    return request.param


def test_volume_and_grid_share_the_pyramid_in_any_host(host):
    volume = UniInstructVolume({"n_feature_dims": 3, "isosurface_resolution": 16, "density_blob_std": 0.5, **SMALL})
    assert volume.encoding.n_output_dims == 2 and volume.cfg.pos_encoding_config.otype == "DenseGridPyramid"
    points = torch.rand(7, 3) - 0.5
    out = volume(points)
    assert out["density"].shape == (7, 1) and out["features"].shape == (7, 3)
    torch.autograd.grad(out["density"].sum() + out["features"].sum(), list(volume.parameters()))
    asked = {"isosurface_resolution": 16, **SMALL}
    grid = threestudio.find("uni-instruct-tetrahedra").create_from(volume, asked)
    assert isinstance(grid, UniInstructTetrahedra) and grid.sdf.requires_grad
    torch.testing.assert_close(grid(points)["features"], out["features"])
    fixed = UniInstructTetrahedra.create_from(grid, {**asked, "fix_geometry": True})
    torch.testing.assert_close(fixed.isosurface().v_pos, grid.isosurface().v_pos)
    torch.testing.assert_close(fixed(points)["features"], out["features"])
    assert next(iter(fixed.parameters())) is not fixed.sdf
    bare = UniInstructTetrahedra.create_from(volume, {**asked, "geometry_only": True})
    assert bare(points) == {} and not hasattr(bare, "encoding")
    with pytest.raises(ValueError, match="geometry.encoding does not fit"):
        other = {**asked, "pos_encoding_config": {**PYRAMID, "base_resolution": 5}}
        UniInstructTetrahedra.create_from(volume, other)


def test_summed_levels_are_the_pyramid():
    """The same trilinear hats: a field of one takes the values of the other's nodes."""
    config = encoding.in_tcnn_words(PYRAMID)
    assert config == {
        "otype": "DenseGrid", "n_levels": 3, "n_features_per_level": 2, "base_resolution": 4, "per_level_scale": 2.0
    }  # fmt: skip
    summed = encoding.SummedLevels(encoding.networks.get_encoding(3, config), 3)
    x = torch.rand(5, 3)
    levels = summed.levels(x)
    torch.testing.assert_close(summed(x), levels[:, 0:2] + levels[:, 2:4] + levels[:, 4:6])


def test_stock_grids_still_start_from_our_volume():
    volume = UniInstructVolume({"isosurface_resolution": 16, **SMALL})
    grid = TetrahedraSDFGrid.create_from(volume, {"isosurface_resolution": 16, "geometry_only": True})
    assert math.isclose(float(_solid(grid.isosurface()).volume), float(_solid(volume.isosurface()).volume), rel_tol=0.1)
