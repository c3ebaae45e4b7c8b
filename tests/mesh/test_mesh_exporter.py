"""The exporter: textures baked where the surface is, every format valid by Khronos's validator, bad input refused."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from contract import CONTRACT
from scenes import FEATURES, grid, volume

from threestudio.models.background.solid_color_background import SolidColorBackground
from threestudio.models.exporters.baking import padded
from threestudio.models.exporters.mesh_exporter import MeshExporter
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.materials.no_material import NoMaterial
from threestudio.utils.saving import SaverMixin
from uni_instruct_guidance.models.mesh_exporter import UniInstructMeshExporter

VALIDATE = Path(__file__).parents[2] / "scripts" / "check_gltf.js"


class PositionMaterial(BaseMaterial):
    """Albedo = (position + 1) / 2, so that every texel says where it is."""

    def export(self, points, **kwargs):
        return {"albedo": (points + 1) / 2}


def exporter(geometry, material=None, **cfg):
    small = {"texture_size": 64, **cfg}
    return UniInstructMeshExporter(
        small, geometry=geometry, material=material or PositionMaterial({}), background=SolidColorBackground({})
    )


@pytest.fixture
def saver(tmp_path):
    saver = SaverMixin()
    saver.set_save_dir(str(tmp_path))
    return saver


def _save(saver, outputs):
    return [getattr(saver, f"save_{o.save_type}")(o.save_name, **o.params) for o in outputs]


def test_defaults_equal_the_reference():
    defaults = CONTRACT["saving"]["mesh_exporter_defaults"]
    cfg = MeshExporter({}, geometry=None, material=None, background=None).cfg
    assert {key: cfg[key] for key in defaults} == defaults


def test_the_stock_exporter_takes_the_references_formats_only():
    with pytest.raises(ValueError, match="fmt=glb: unknown format; choices: obj-mtl, obj; uni-instruct-mesh-exporter"):
        MeshExporter({"fmt": "glb"}, geometry=None, material=None, background=None)


def test_texture_shows_the_surface_point_of_each_texel(saver):
    """Read the albedo back at every vertex's texture coordinate: it must be the vertex's position."""
    (path,) = _save(saver, exporter(grid(isosurface_resolution=12), fmt="glb", texture_size=256)())
    (loaded,) = trimesh.load(path, process=False).geometry.values()
    pixels = np.asarray(loaded.visual.material.baseColorTexture.convert("RGB")).astype(float) / 255
    assert pixels.shape == (256, 256, 3)
    column, row = (loaded.visual.uv * [256, -256] + [0, 256]).T
    found = pixels[row.astype(int).clip(0, 255), column.astype(int).clip(0, 255)] * 2 - 1
    world = loaded.vertices[:, [2, 0, 1]]
    # A texel is about 0.015 wide on this ball; a vertex on a seam may read its neighbour; 8 bits add 0.004.
    assert np.abs(found - world).max() < 0.05
    # Padding: no texel of the whole image is far from the surface, whose flat faces reach down to 0.46.
    radius = np.linalg.norm(pixels.reshape(-1, 3) * 2 - 1, axis=-1)
    assert radius.min() > 0.45 and radius.max() < 0.51


def test_all_formats_at_once_share_one_unwrapping(saver, monkeypatch):
    calls = []
    geometry = grid(isosurface_resolution=8, fix_geometry=True)
    mesh = geometry.isosurface()
    unwrap = mesh.unwrap_uv
    monkeypatch.setattr(mesh, "unwrap_uv", lambda *a, **k: calls.append(a) or unwrap(*a, **k))
    paths = _save(saver, exporter(geometry, fmt="glb, obj-mtl", texture_format="png")())
    assert len(calls) == 1
    assert Path(paths[0]).name == "model.glb"
    assert [Path(p).name for p in paths[1]] == ["model.mtl", "texture_kd.png", "model.obj"]
    loaded = trimesh.load(paths[1][-1], process=False)
    assert loaded.visual.material.image.size == (64, 64)


def test_vertex_colours(saver):
    geometry = grid(isosurface_resolution=8)
    (obj,) = exporter(geometry, fmt="obj")()
    assert obj.params["save_vertex_color"] and not obj.params["save_mat"]
    torch.testing.assert_close(obj.params["mesh"].v_rgb, (obj.params["mesh"].v_pos + 1) / 2)
    ((path,),) = _save(saver, [obj])
    assert len(Path(path).read_text().splitlines()[0].split()) == 7
    (glb,) = exporter(geometry, fmt="glb", save_texture=False)()
    (loaded,) = trimesh.load(_save(saver, [glb])[0], process=False).geometry.values()
    assert loaded.visual.vertex_attributes["color"].shape == (len(loaded.vertices), 4)


def test_exports_a_field_and_its_features(saver):
    (path,) = _save(saver, exporter(volume(), NoMaterial({}), fmt="glb")())
    (loaded,) = trimesh.load(path, process=False).geometry.values()
    loaded.merge_vertices(merge_tex=True, merge_norm=True)
    assert loaded.is_watertight and loaded.volume > 0


def test_material_without_albedo_is_said(caplog, saver):
    class Nothing(BaseMaterial):
        pass

    with caplog.at_level("WARNING"):
        outputs = exporter(grid(isosurface_resolution=6), Nothing({}), fmt="glb,obj")()
    assert "exports no albedo; the mesh stays white" in caplog.text and "the vertices get no colour" in caplog.text
    assert len(_save(saver, outputs)) == 2


@pytest.mark.parametrize(
    "cfg, message",
    [
        ({"fmt": "stl"}, r"exporter.fmt=stl: unknown format 'stl'; choices: glb, obj-mtl, obj"),
        ({"fmt": "obj,obj-mtl"}, "would write the same file"),
        ({"texture_size": 0}, "exporter.texture_size=0; must be at least 1"),
        ({"fmt": "obj-mtl", "save_uv": False}, "exporter.save_texture=true needs exporter.save_uv=true"),
    ],
)
def test_mistakes_are_named(cfg, message):
    with pytest.raises(ValueError, match=message):
        exporter(grid(isosurface_resolution=6), **cfg)()


@pytest.mark.parametrize(
    "geometry, message",
    [
        (lambda: volume(isosurface_threshold=1e6), "isosurface_threshold"),
        (lambda: grid(shape_init=None), "no surface"),
    ],
)
def test_empty_geometry_is_refused(geometry, message):
    with pytest.raises(ValueError, match=message):
        exporter(geometry())()


@pytest.mark.parametrize("said", [lambda: max([]), lambda: torch.zeros(0, 3).amin(dim=0)])
def test_threestudio_propers_words_for_no_surface_are_replaced(said, monkeypatch):
    """It takes the largest of no parts, or the corners of no points."""
    monkeypatch.setattr(MeshExporter, "__call__", lambda self: said())
    with pytest.raises(ValueError, match="no surface to export: nothing reaches .*isosurface_threshold=25"):
        exporter(volume(isosurface_threshold=25.0))()


def test_diverged_geometry_is_refused():
    geometry = grid(isosurface_resolution=8)
    geometry.deformation.data[: len(geometry.sdf)] = float("nan")
    with pytest.raises(ValueError, match="vertices are not finite; training diverged"):
        exporter(geometry)()


def test_padding_takes_the_nearest_texel():
    covered = torch.zeros(7, 9, dtype=torch.bool)
    covered[2, 1] = covered[5, 7] = True
    image = torch.rand(7, 9, 3) * covered[..., None]
    full = padded(image, covered)
    for i in range(7):
        for j in range(9):
            near, far = (i - 2) ** 2 + (j - 1) ** 2, (i - 5) ** 2 + (j - 7) ** 2
            if near != far:
                assert torch.equal(full[i, j], image[2, 1] if near < far else image[5, 7])
    assert torch.equal(padded(image, torch.zeros_like(covered)), image)


def _validator() -> str | None:
    """Why Khronos's validator cannot run, None if it can."""
    if shutil.which("node") is None:
        return "node is not installed"
    found = subprocess.run(["node", str(VALIDATE)], capture_output=True, text=True, env=os.environ)
    return None if found.returncode == 0 else "npm's gltf-validator is not installed (see scripts/check_gltf.js)"


@pytest.mark.skipif(_validator() is not None, reason=str(_validator()))
@pytest.mark.parametrize("cfg", [{}, {"save_texture": False}], ids=["textured", "vertex_colours"])
@pytest.mark.parametrize("material", [PositionMaterial, lambda cfg: NoMaterial(cfg)], ids=["position", "features"])
def test_khronos_validator_finds_nothing(saver, cfg, material):
    geometry = grid(isosurface_resolution=24, **FEATURES)
    geometry.sdf.data += 0.02 * torch.randn_like(geometry.sdf)
    (path,) = _save(saver, exporter(geometry, material({}), fmt="glb", **cfg)())
    found = subprocess.run(["node", str(VALIDATE), path], capture_output=True, text=True)
    report = json.loads(found.stdout)
    assert (report["errors"], report["warnings"]) == (0, 0), report
    assert found.returncode == 0
