"""The end of a run: names and axes of mesh files, fewer faces, what is called poor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

import uni_instruct_3d  # noqa: F401  opens the house
from threestudio.models.mesh import Mesh
from threestudio.utils.mesh_files import mtl_text, obj_text
from uni_instruct_3d.pipeline import checks, mesh_files
from uni_instruct_guidance.scoring.meshes import load_mesh


def as_mesh(*parts: trimesh.Trimesh) -> Mesh:
    whole = trimesh.util.concatenate(parts)
    return Mesh(torch.tensor(whole.vertices, dtype=torch.float32), torch.tensor(whole.faces))


def ball(radius: float, x: float = 0.0) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=3, radius=radius).apply_translation((x, 0, 0))


def test_object_and_material_have_the_prompts_name():
    text = mesh_files.named(obj_text(as_mesh(ball(1.0)), "model.mtl"), "a-red-mug")
    assert "o a-red-mug\nusemtl a-red-mug\n" in text and "mtllib model.mtl" in text
    assert mesh_files.named(mtl_text({}), "a-red-mug").startswith("newmtl a-red-mug\n")
    assert mesh_files.named(obj_text(as_mesh(ball(1.0))), "a-red-mug").startswith("o a-red-mug\n")


def test_up_axis_of_an_obj_file(tmp_path):
    """What stood on z stands on y, what was in front (x) is in front of glTF's z."""
    mesh = as_mesh(trimesh.creation.box((0.2, 0.4, 0.8)))
    lines = mesh_files.turned(obj_text(mesh, normal=True)).splitlines()
    assert lines[0] == "# up: y"
    (tmp_path / "box.obj").write_text("\n".join(lines))
    assert torch.allclose(torch.as_tensor(load_mesh(tmp_path / "box.obj").vertices), mesh.v_pos), "scores know it"
    v = np.array([[float(x) for x in line.split()[1:]] for line in lines if line.startswith("v ")])
    assert np.allclose(np.ptp(v, axis=0), (0.4, 0.8, 0.2)) and any(line.startswith("vn ") for line in lines)
    area = trimesh.Trimesh(v, mesh.t_pos_idx.numpy()).volume
    assert area == pytest.approx(0.2 * 0.4 * 0.8), "right-handed before and after"


def test_glb_keeps_its_geometry_under_another_name(tmp_path):
    path = tmp_path / "model.glb"
    trimesh.Scene({"object": ball(1.0)}).export(path)
    mesh_files.name_glb(path, "a-red-mug")
    scene = trimesh.load_scene(path)
    assert list(scene.geometry) == ["a-red-mug"] and len(scene.geometry["a-red-mug"].faces) == 1280


def test_fewer_faces():
    mesh = mesh_files.simplified(as_mesh(ball(0.5)), 200)
    assert 100 < len(mesh.t_pos_idx) <= 210
    assert mesh.v_pos.norm(dim=-1).mean().item() == pytest.approx(0.5, abs=0.02)


def surface(*parts):
    mesh = as_mesh(*parts)
    return mesh.v_pos.numpy(), mesh.t_pos_idx.numpy()


def test_what_is_poor():
    """A ball is not; five crumbs, a film, a mesh that misses half of what the NeRF showed are."""
    good = checks.of_surface(*surface(ball(0.4)), 0.6)
    assert good["components"] == 1 and good["filled"] == pytest.approx((0.4 / 0.6) ** 3, rel=0.02)
    assert checks.complaints(good | {"silhouettes": 0.95, "half transparent": 0.1}) == []
    crumbs = checks.of_surface(*surface(*(ball(0.04, 0.1 * i) for i in range(5))), 0.6)
    assert crumbs["components"] == 5
    said = "\n".join(checks.complaints(crumbs | {"silhouettes": 0.4, "half transparent": 0.8}))
    assert "crumbs" in said and "in pieces" in said and "agree with the NeRF's by 40%" in said and "80%" in said
