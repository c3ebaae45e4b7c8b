"""Mesh: the reference's values, and closed forms."""

import pytest
import torch
import trimesh
from contract import CONTRACT, close

from backends.raster.visibility import visible_triangles
from threestudio.models.mesh import Mesh

VALUES = CONTRACT["mesh"]


def _mesh(entry, **extras):
    return Mesh(torch.tensor(entry["vertices"]), torch.tensor(entry["faces"]), **extras)


def test_closed_mesh_equals_the_reference():
    mesh = _mesh(VALUES)
    close(mesh.v_nrm, VALUES["v_nrm"])
    assert mesh.edges.tolist() == VALUES["edges"]
    close(mesh.normal_consistency(), VALUES["normal_consistency"])
    close(mesh.laplacian(), VALUES["laplacian"])
    assert mesh.requires_grad is VALUES["requires_grad"]


@pytest.mark.parametrize("name", ["normal_consistency", "laplacian"])
def test_regulariser_gradients_equal_the_reference(name):
    mesh = _mesh(VALUES)
    mesh.v_pos.requires_grad_()
    getattr(mesh, name)().backward()
    close(mesh.v_pos.grad, VALUES[f"{name}_grad"])


def test_square_with_tangents_equals_the_reference():
    square = VALUES["square"]
    mesh = _mesh(square)
    mesh.set_uv(torch.tensor(square["uv"]), mesh.t_pos_idx)
    close(mesh.v_nrm, square["v_nrm"])
    close(mesh.v_tng, square["v_tng"])
    assert mesh.edges.tolist() == square["edges"]
    close(mesh.normal_consistency(), square["normal_consistency"])
    close(mesh.laplacian(), square["laplacian"])


def test_degenerate_face_gets_a_normal():
    mesh = _mesh(VALUES["degenerate_normals"])
    close(mesh.v_nrm, VALUES["degenerate_normals"]["v_nrm"])


@pytest.mark.parametrize("case", VALUES["two_components"]["cases"], ids=lambda c: f"{c['kind']}-{c['threshold']}")
def test_remove_outlier_equals_the_reference(case):
    mesh = _mesh(VALUES["two_components"], **case["extras"])
    threshold = {"int": int, "float": float}[case["kind"]](case["threshold"])
    kept = mesh.remove_outlier(threshold)
    assert kept is not mesh and kept.extras == case["extras"]
    assert (len(kept.v_pos), len(kept.t_pos_idx)) == (case["n_vertices"], case["n_faces"])
    close(torch.stack([kept.v_pos.amin(0), kept.v_pos.amax(0)]), case["bounds"])
    assert trimesh.Trimesh(kept.v_pos.numpy(), kept.t_pos_idx.numpy(), process=False).is_watertight


def test_remove_outlier_may_remove_everything_and_leaves_a_training_mesh_alone():
    rule = VALUES["remove_outlier_all_removed"]
    kept = _mesh(VALUES["two_components"]).remove_outlier(rule["threshold"])
    assert [len(kept.v_pos), len(kept.t_pos_idx)] == rule["returns"]
    assert kept.remove_outlier(0.5).v_pos.shape == (0, 3)
    training = _mesh(VALUES["two_components"])
    training.v_pos.requires_grad_()
    assert (training.remove_outlier(5) is training) is VALUES["two_components"]["requires_grad_returns_self"]


def test_normals_of_a_sphere_point_outwards():
    ball = trimesh.creation.icosphere(subdivisions=3)
    mesh = Mesh(torch.tensor(ball.vertices), torch.tensor(ball.faces))
    # Area-weighted normals of an icosphere are off by less than a degree.
    assert ((mesh.v_nrm * mesh.v_pos).sum(-1) > 0.9998).all()


def test_unwrap_uv_covers_every_face_without_overlap():
    ball = trimesh.creation.icosphere(subdivisions=2)
    mesh = Mesh(torch.tensor(ball.vertices).float(), torch.tensor(ball.faces))
    mesh.unwrap_uv({"max_iterations": 2}, {"padding": 2})
    assert mesh.t_tex_idx.shape == mesh.t_pos_idx.shape
    assert mesh.v_tex.min() >= 0 and mesh.v_tex.max() <= 1
    clip = torch.cat([mesh.v_tex * 2 - 1, torch.zeros(len(mesh.v_tex), 1), torch.ones(len(mesh.v_tex), 1)], 1)
    cover = sum(visible_triangles(clip, face[None], 128, 128).gt(0).int() for face in mesh.t_tex_idx)
    assert cover.max() == 1 and cover.float().mean() > 0.4
    assert torch.isfinite(mesh.v_tng).all()
    # A texture vertex belongs to one position only.
    pairs = torch.stack([mesh.t_tex_idx.reshape(-1), mesh.t_pos_idx.reshape(-1)], 1).unique(dim=0)
    assert len(pairs) == len(mesh.v_tex)


def test_unwrapping_happens_when_coordinates_are_asked_for():
    mesh = _mesh(VALUES)
    assert mesh.v_tex.shape[1:] == tuple(VALUES["unwrap_uv"]["v_tex_shape"][1:])
    assert list(mesh.t_tex_idx.shape) == VALUES["unwrap_uv"]["t_tex_idx_shape"]


def test_mistakes_are_named():
    mesh = _mesh(VALUES)
    with pytest.raises(AssertionError, match="5 vertex colours for 12 vertices"):
        mesh.set_vertex_color(torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"xatlas_chart_options: unknown option 'colour'; choices: .*max_cost"):
        mesh.unwrap_uv({"colour": 1})
    with pytest.raises(AssertionError, match="1 texture faces for 20 faces"):
        mesh.set_uv(torch.zeros(3, 2), torch.tensor([[0, 1, 2]]))


def test_extras_and_vertex_colours_stay_with_the_mesh():
    mesh = _mesh(VALUES, tag="kept")
    mesh.add_extra("more", 1)
    assert mesh.extras == {"tag": "kept", "more": 1}
    assert mesh.v_rgb is None
    mesh.set_vertex_color(torch.rand(12, 3))
    assert mesh.v_rgb.shape == (12, 3)
