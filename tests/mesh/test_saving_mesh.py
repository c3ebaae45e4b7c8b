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


def test_bad_meshes_are_refused_before_a_file_exists(saver, tmp_path):
    with pytest.raises(ValueError, match="the mesh is empty; choose another geometry.isosurface_threshold"):
        saver.save_obj("x", Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long)))
    broken = _triangle()
    broken.v_pos[1, 0] = float("nan")
    with pytest.raises(ValueError, match="1 of 3 vertices are not finite"):
        saver.save_obj("x", broken)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_the_old_file(saver, tmp_path, monkeypatch, ball):
    path = tmp_path / "x.obj"
    path.write_text("old")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("threestudio.utils.files.os.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        saver.save_obj("x", ball)
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_text() == "old"


def test_a_folder_that_cannot_be_written_is_named(saver, tmp_path, ball, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot write .*file.x\.obj: "):
        saver.save_obj("file/x", ball)

    def read_only(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(saving_mesh, "_write", read_only)
    with pytest.raises(ValueError, match=r"cannot write .*x\.obj: Permission denied"):
        saver.save_obj("x", ball)
