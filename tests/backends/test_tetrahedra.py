"""Tetrahedral grids and marching tetrahedra: topology by counting, geometry by closed forms and finite differences."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import trimesh
from torch.autograd import gradcheck

from backends.tetrahedra import marching_tetrahedra, tetrahedra_edges, tetrahedral_grid

ONE_TET = json.loads((Path(__file__).parents[1] / "data" / "upstream_contract.json").read_text())["isosurface"][
    "one_tet"
]


def _volumes(vertices, tets):
    a, b, c, d = vertices.double()[tets].unbind(1)
    return (torch.linalg.cross(b - a, c - a, dim=-1) * (d - a)).sum(-1) / 6


@pytest.mark.parametrize("resolution", [2, 3, 6, 11])
def test_grid_fills_the_cube_face_to_face(resolution):
    vertices, tets = tetrahedral_grid(resolution)
    n = math.ceil(resolution / 2)
    assert len(vertices) == (n + 1) ** 3 + n**3 and len(tets) == 12 * n**3
    assert vertices.min() == 0 and vertices.max() == 1
    # float32 vertices: a part in 10^7 of a cell.
    torch.testing.assert_close(
        _volumes(vertices, tets), torch.full((len(tets),), 1 / len(tets)).double(), rtol=1e-5, atol=0
    )
    assert sorted(torch.unique(tets).tolist()) == list(range(len(vertices)))
    faces = torch.cat([tets[:, list(c)] for c in itertools.combinations(range(4), 3)]).sort(dim=-1).values
    unique, count = torch.unique(faces, dim=0, return_counts=True)
    corners = vertices[unique]
    on_side = ((corners == 0).all(1) | (corners == 1).all(1)).any(-1)
    assert torch.equal(count, torch.where(on_side, 1, 2))


def test_grid_edges_are_those_of_the_tetrahedra():
    _, tets = tetrahedral_grid(4)
    expected = {tuple(sorted(pair)) for tet in tets.tolist() for pair in itertools.combinations(tet, 2)}
    edges = [tuple(edge) for edge in tetrahedra_edges(tets).tolist()]
    assert edges == sorted(expected)


def test_grid_resolution_is_checked():
    with pytest.raises(ValueError, match="resolution of at least 2, got 1"):
        tetrahedral_grid(1)


@pytest.mark.parametrize("case", ONE_TET["cases"], ids=lambda c: "".join("+" if x > 0 else "-" for x in c["level"]))
def test_one_tetrahedron_equals_the_reference(case):
    v_pos, faces = marching_tetrahedra(
        torch.tensor(ONE_TET["vertices"]), torch.arange(4)[None], torch.tensor(case["level"])
    )
    torch.testing.assert_close(v_pos, torch.tensor(case["v_pos"]), atol=1e-6, rtol=0)
    normals = []
    for f in (faces, torch.tensor(case["faces"])):
        a, b, c = v_pos[f].unbind(1)
        normals.append(torch.linalg.cross(b - a, c - a, dim=-1))
    assert len(normals[0]) == len(normals[1])
    # The diagonal of a quadrilateral is free; its two halves' vector areas are not.
    torch.testing.assert_close(normals[0].sum(0), normals[1].sum(0), atol=1e-6, rtol=0)
    assert ((normals[0] * normals[1].sum(0)).sum(-1) > 0).all()


def _sphere(x):
    return x.norm(dim=-1) - 0.5


def _torus(x):
    return torch.stack([x[:, :2].norm(dim=-1) - 0.6, x[:, 2]], -1).norm(dim=-1) - 0.25


SHAPES = {  # level, volume, area, Euler characteristic
    "sphere": (_sphere, math.pi / 6, math.pi, 2),
    "torus": (_torus, 2 * math.pi**2 * 0.6 * 0.25**2, 4 * math.pi**2 * 0.6 * 0.25, 0),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_volume_area_and_topology_of_a_known_shape(shape):
    function, volume, area, euler = SHAPES[shape]
    vertices, tets = tetrahedral_grid(64)
    x = vertices * 2 - 1
    v_pos, faces = marching_tetrahedra(x, tets, function(x))
    mesh = trimesh.Trimesh(v_pos.numpy(), faces.numpy(), process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.euler_number == euler
    assert len(torch.unique(faces)) == len(v_pos)
    # Chords of a circle of radius r cut with step h lose h^2 / (8 r^2): 0.4 % here; 2 % is what is promised.
    assert mesh.volume == pytest.approx(volume, rel=0.02) and mesh.volume > 0
    assert mesh.area == pytest.approx(area, rel=0.02)
    turned = trimesh.Trimesh(*(t.numpy() for t in marching_tetrahedra(x, tets, -function(x))), process=False)
    assert turned.volume == pytest.approx(-mesh.volume, rel=1e-3)


def test_one_sign_gives_an_empty_mesh():
    vertices, tets = tetrahedral_grid(4)
    v_pos, faces = marching_tetrahedra(vertices, tets, torch.ones(len(vertices)))
    assert v_pos.shape == (0, 3) and faces.shape == (0, 3)


def test_gradients_by_finite_differences():
    vertices, tets = tetrahedral_grid(4)
    vertices = vertices.double()
    level = (vertices - 0.5).norm(dim=-1) - 0.33

    def volume(level, vertices):
        v_pos, faces = marching_tetrahedra(vertices, tets, level)
        a, b, c = v_pos[faces].unbind(1)
        return (a * torch.linalg.cross(b, c, dim=-1)).sum() / 6

    assert gradcheck(volume, (level.requires_grad_(), vertices.clone().requires_grad_()))
    # Raising every level by h shrinks the ball: dV = -area h, to the grid's accuracy (the fine one of 24 layers).
    vertices, tets = tetrahedral_grid(24)
    level = ((vertices - 0.5).norm(dim=-1) - 0.33).requires_grad_()
    volume(level, vertices).backward()
    assert level.grad.sum().item() == pytest.approx(-4 * math.pi * 0.33**2, rel=0.03)
