"""Mesh files: the reference's text, exact round trips through trimesh, refusals before anything is written."""

import re

import numpy as np
import pytest
import torch
import trimesh
from contract import CONTRACT
from scenes import grid

from threestudio.models.mesh import Mesh
from threestudio.utils import saving_mesh
from threestudio.utils.saving import SaverMixin

VALUES = CONTRACT["saving"]["save_obj"]
MAPS = {key: torch.full((4, 4, 3), 0.3) for key in ("map_Kd", "map_Ks", "map_Bump")}
MAPS |= {key: torch.full((4, 4), 0.6) for key in ("map_Pm", "map_Pr")}


@pytest.fixture
def saver(tmp_path):
    saver = SaverMixin()
    saver.set_save_dir(str(tmp_path))
    return saver


def _triangle():
    entry = VALUES["triangle"]
    mesh = Mesh(torch.tensor(entry["vertices"]), torch.tensor(entry["faces"]))
    mesh.set_uv(torch.tensor(entry["uv"]), torch.tensor(entry["uv_faces"]))
    mesh.set_vertex_color(torch.tensor(entry["colors"]))
    return mesh


def _tokens(line):
    return [float(t) if re.fullmatch(r"[-+.\de]+", t) else t for t in line.split()]


@pytest.mark.parametrize("case", [c for c in VALUES["cases"] if "obj_lines" in c], ids=lambda c: c["case"])
def test_obj_and_mtl_equal_the_reference(saver, tmp_path, case):
    options = {key: MAPS[key] if value == "map" else value for key, value in case["kwargs"].items()}
    paths = saver.save_obj(case["filename"], _triangle(), **options)
    assert [str(p)[len(str(tmp_path)) + 1 :] for p in paths] == case["returned"]
    folder = (tmp_path / case["filename"]).parent
    assert sorted(p.name for p in folder.iterdir()) == sorted(case["folder"])
    written = (tmp_path / case["returned"][-1]).read_text().split("\n")
    # The reference's last line of a long case may have been cut from the record.
    for ours, theirs in zip(written, case["obj_lines"]):
        assert [t if isinstance(t, str) else pytest.approx(t, abs=1e-6) for t in _tokens(theirs)] == _tokens(ours)
    if "mtl_lines" in case:
        assert (tmp_path / case["returned"][0]).read_text().split("\n") == case["mtl_lines"]


def test_map_with_a_channel_axis(saver):
    case = VALUES["cases"][-1]
    assert "Pm 4x4x1" in case["case"]
    paths = saver.save_obj(case["returns"][-1], _triangle(), save_mat=True, map_Pm=torch.rand(4, 4, 1))
    assert [p[len(saver.get_save_dir()) + 1 :] for p in paths] == case["returns"]


@pytest.fixture(scope="module")
def ball():
    mesh = grid(isosurface_resolution=12).isosurface()
    mesh.v_pos = mesh.v_pos.detach()
    mesh.unwrap_uv()
    mesh.set_vertex_color(torch.rand(len(mesh.v_pos), 3, generator=torch.Generator().manual_seed(0)))
    return mesh


def _texture():
    side = torch.linspace(0, 1, 16)
    return torch.stack([side.expand(16, 16), side[:, None].expand(16, 16), torch.zeros(16, 16)], -1)


def test_textured_glb_round_trip(saver, ball):
    path = saver.save_glb("m/ball", ball, map_Kd=_texture())
    scene = trimesh.load(path, process=False)
    (loaded,) = scene.geometry.values()
    assert len(loaded.vertices) == len(ball.v_tex) and len(loaded.faces) == len(ball.t_pos_idx)
    # Up is y and the front z, so world x, y, z are the file's z, x, y.
    a, b, c = (loaded.vertices[loaded.faces][:, i][:, [2, 0, 1]] for i in range(3))
    for ours, theirs in zip(ball.v_pos[ball.t_pos_idx].unbind(1), (a, b, c)):
        np.testing.assert_allclose(theirs, ours, atol=1e-6)
    assert loaded.volume > 0
    # trimesh turns v on the way in too.
    uv = ball.v_tex[ball.t_tex_idx].numpy() * [1, -1] + [0, 1]
    np.testing.assert_allclose(loaded.visual.uv[loaded.faces], uv, atol=1e-6)
    material = loaded.visual.material
    assert material.metallicFactor == 0 and material.roughnessFactor == 1
    pixels = np.asarray(material.baseColorTexture.convert("RGB"))
    np.testing.assert_array_equal(pixels, (_texture().numpy() * 255).astype(np.uint8))
    np.testing.assert_allclose(np.linalg.norm(loaded.vertex_normals, axis=-1), 1, atol=1e-5)
    loaded.merge_vertices(merge_tex=True, merge_norm=True)
    assert loaded.is_watertight


def test_metallic_and_roughness_share_a_texture(saver, ball):
    metallic, roughness = torch.ones(4, 4, 1), torch.zeros(4, 4, 1)
    path = saver.save_glb("ball", ball, map_Kd=_texture(), map_Pm=metallic, map_Pr=roughness)
    (loaded,) = trimesh.load(path, process=False).geometry.values()
    packed = np.asarray(loaded.visual.material.metallicRoughnessTexture)
    assert (packed[..., 1] == 0).all() and (packed[..., 2] == 255).all()
    assert loaded.visual.material.metallicFactor == 1 and loaded.visual.material.roughnessFactor == 1


def test_vertex_colored_glb_is_linear(saver, ball):
    path = saver.save_glb("ball.glb", ball, save_vertex_color=True)
    (loaded,) = trimesh.load(path, process=False).geometry.values()
    assert len(loaded.vertices) == len(ball.v_pos) and loaded.is_watertight
    assert loaded.euler_number == 2
    srgb = ball.v_rgb.numpy()
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    # 16 bits, and a material that is no metal: a viewer's default one is
    np.testing.assert_allclose(loaded.visual.vertex_attributes["color"][:, :3] / 65535, linear, atol=1 / 65535)
    assert loaded.visual.material.metallicFactor == 0


def test_plain_glb(saver, ball):
    (loaded,) = trimesh.load(saver.save_glb("ball.glb", ball), process=False).geometry.values()
    assert loaded.is_watertight and loaded.visual.material.roughnessFactor == 1


def test_obj_round_trip_with_material(saver, ball):
    paths = saver.save_obj("o/ball.obj", ball, save_mat=True, save_uv=True, map_Kd=_texture(), map_format="png")
    loaded = trimesh.load(paths[-1], process=False)
    assert len(loaded.faces) == len(ball.t_pos_idx)
    image = loaded.visual.material.image
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), (_texture().numpy() * 255).astype(np.uint8))
    corner = torch.from_numpy(np.asarray(loaded.vertices[loaded.faces])).float()
    # 9 digits bring float32 back exactly.
    assert torch.equal(corner, ball.v_pos[ball.t_pos_idx])
    loaded.merge_vertices(merge_tex=True, merge_norm=True)
    assert loaded.is_watertight and len(loaded.vertices) == len(ball.v_pos)


@pytest.mark.parametrize("save", ["save_obj", "save_glb"])
def test_bad_meshes_are_refused_before_a_file_exists(saver, tmp_path, save):
    with pytest.raises(ValueError, match="the mesh is empty; choose another geometry.isosurface_threshold"):
        getattr(saver, save)("x", Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long)))
    broken = _triangle()
    broken.v_pos[1, 0] = float("nan")
    with pytest.raises(ValueError, match="1 of 3 vertices are not finite"):
        getattr(saver, save)("x", broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("save, suffix", [("save_obj", "obj"), ("save_glb", "glb")])
def test_an_interrupted_export_leaves_the_old_file(saver, tmp_path, monkeypatch, ball, save, suffix):
    path = tmp_path / f"x.{suffix}"
    path.write_text("old")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("threestudio.utils.files.os.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        getattr(saver, save)("x", ball)
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_text() == "old"


@pytest.mark.parametrize("save", ["save_obj", "save_glb"])
def test_a_folder_that_cannot_be_written_is_named(saver, tmp_path, ball, save, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot write .*file.x\.(obj|glb): "):
        getattr(saver, save)("file/x", ball)

    def read_only(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(saving_mesh, "_write", read_only)
    with pytest.raises(ValueError, match=r"cannot write .*x\.(obj|glb): Permission denied"):
        getattr(saver, save)("x", ball)
