"""Small scenes: geometries, cameras, materials."""

import math

import torch
import torch.nn.functional as F

from threestudio.models.background.solid_color_background import SolidColorBackground
from threestudio.models.geometry.implicit_volume import ImplicitVolume
from threestudio.models.geometry.tetrahedra_sdf_grid import TetrahedraSDFGrid
from threestudio.models.materials.no_material import NoMaterial
from threestudio.models.renderers.nvdiff_rasterizer import NVDiffRasterizer
from threestudio.utils.ops import get_mvp_matrix, get_projection_matrix

ENCODING = {
    "otype": "HashGrid",
    "n_levels": 3,
    "n_features_per_level": 2,
    "log2_hashmap_size": 10,
    "base_resolution": 4,
    "per_level_scale": 1.5,
}
NETWORK = {"otype": "VanillaMLP", "activation": "ReLU", "output_activation": "none", "n_neurons": 8}
NETWORK["n_hidden_layers"] = 1
FEATURES = {"pos_encoding_config": ENCODING, "mlp_network_config": NETWORK}


def volume(**cfg) -> ImplicitVolume:
    """A cone of density around the origin, the same in all directions (zeroed network)."""
    field = ImplicitVolume({"isosurface_threshold": 5.0, "isosurface_resolution": 24, **FEATURES, **cfg})
    for parameter in field.density_network.parameters():
        parameter.data.zero_()
    return field


def grid(**cfg) -> TetrahedraSDFGrid:
    """A ball of radius 0.5."""
    shape = {"shape_init": "sphere", "shape_init_params": 0.5, "isosurface_resolution": 24}
    return TetrahedraSDFGrid({**shape, **FEATURES, **cfg})


def cameras(azimuth_deg, elevation_deg=15.0, distance=2.5, fovy_deg=40.0) -> dict:
    """Views of the origin as the data modules give them."""
    azimuth = torch.tensor(azimuth_deg, dtype=torch.float32).deg2rad()
    elevation = torch.full_like(azimuth, math.radians(elevation_deg))
    position = distance * torch.stack(
        [elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], dim=-1
    )
    look = F.normalize(-position, dim=-1)
    right = F.normalize(torch.linalg.cross(look, torch.tensor([[0.0, 0, 1]]).expand_as(look), dim=-1), dim=-1)
    c2w = torch.eye(4).repeat(len(azimuth), 1, 1)
    c2w[:, :3, :3] = torch.stack([right, torch.linalg.cross(right, look, dim=-1), -look], dim=-1)
    c2w[:, :3, 3] = position
    projection = get_projection_matrix(torch.full_like(azimuth, math.radians(fovy_deg)), 1.0, 0.1, 100.0)
    return {"mvp_mtx": get_mvp_matrix(c2w, projection), "camera_positions": position, "light_positions": position}


def renderer(geometry, material=None, background=None, **cfg) -> NVDiffRasterizer:
    return NVDiffRasterizer(
        cfg,
        geometry=geometry,
        material=material or NoMaterial({}),
        background=background or SolidColorBackground({"color": [1.0, 1.0, 1.0]}),
    )
