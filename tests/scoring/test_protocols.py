"""Camera protocols against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from uni_instruct_guidance.scoring.protocols import (
    PROTOCOLS,
    Framing,
    get_protocol,
    icosphere,
    unit_cube_framing,
    unit_radius_framing,
)

# name -> views, distance, size, fovy (None: several)
EXPECTED = {
    "threestudio-120": (120, 1.5, 512, 70.0),
    "ring-8": (8, 2.0, 512, 40.0),
    "t3bench-162x5": (810, 2.2, 512, None),
    "shapes-8": (8, 1.7, 128, 50.0),
}
ELEVATION = {"threestudio-120": 15.0, "ring-8": 30.0, "shapes-8": 15.0}


def test_every_protocol_is_checked_here():
    assert set(EXPECTED) == set(PROTOCOLS)


@pytest.mark.parametrize("name", EXPECTED)
def test_counts_distances_and_rigid_cameras_that_look_at_the_origin(name):
    protocol = get_protocol(name)
    views, distance, size, fovy = EXPECTED[name]
    assert (protocol.n_views, protocol.size, protocol.label) == (views, size, f"{name}@1")
    assert fovy is None or (protocol.fovy_deg == fovy).all()
    c2w = protocol.c2w
    assert c2w.shape == (views, 4, 4)
    torch.testing.assert_close(c2w[:, :3, 3].norm(dim=-1), torch.full((views,), distance))
    rotation = c2w[:, :3, :3]
    torch.testing.assert_close(rotation.transpose(1, 2) @ rotation, torch.eye(3).expand(views, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(views))
    # the origin lies straight ahead: on −z of the camera
    origin = torch.linalg.inv(c2w) @ torch.tensor([0.0, 0.0, 0.0, 1.0])
    torch.testing.assert_close(origin[:, :3], torch.tensor([0.0, 0.0, -distance]).expand(views, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ELEVATION)
def test_rings_start_in_front_and_go_round_at_their_elevation(name):
    position = get_protocol(name).position
    n, radius = len(position), EXPECTED[name][1]
    elevation = math.radians(ELEVATION[name])
    azimuth = torch.arange(n) * 2 * math.pi / n
    torch.testing.assert_close(position[:, 2], torch.full((n,), radius * math.sin(elevation)))
    torch.testing.assert_close(position[:, 0], radius * math.cos(elevation) * azimuth.cos(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(position[:, 1], radius * math.cos(elevation) * azimuth.sin(), atol=1e-6, rtol=1e-6)
    # z stays up in the picture
    assert (get_protocol(name).c2w[:, 2, 1] > 0.8).all()


@pytest.mark.parametrize("level, n", [(0, 12), (1, 42), (2, 162)])
def test_icosphere_has_the_vertices_of_a_split_icosahedron(level, n):
    vertices = icosphere(level)
    assert vertices.shape == (n, 3)
    torch.testing.assert_close(vertices.norm(dim=-1), torch.ones(n))
    torch.testing.assert_close(vertices.sum(0), torch.zeros(3), atol=1e-5, rtol=0)  # symmetric about its centre
    distance = torch.cdist(vertices.double(), vertices.double()) + 9 * torch.eye(n)
    assert distance.min() > 0.27  # no vertex twice
    import trimesh

    reference = torch.tensor(trimesh.creation.icosphere(subdivisions=level).vertices)
    assert torch.cdist(reference, vertices.double()).min(1).values.max() < 1e-6


def test_t3bench_sees_both_poles_and_every_direction_at_five_fields_of_view():
    protocol = get_protocol("t3bench-162x5")
    assert protocol.background == (0.0, 0.0, 0.0)
    directions = protocol.position.reshape(162, 5, 3)
    assert (directions == directions[:, :1]).all()
    # 180 degrees over 3, 4, 5, 6 and 7.5
    assert (protocol.fovy_deg.reshape(162, 5) == torch.tensor([60.0, 45.0, 36.0, 30.0, 24.0])).all()
    assert protocol.c2w.isfinite().all()
    steep = directions[:, 0, 2].abs() > 0.99 * 2.2
    assert (protocol.up.reshape(162, 5, 3)[steep] == torch.tensor([0.0, 1.0, 0.0])).all()


def test_framing_moves_the_cameras_with_the_object():
    protocol = get_protocol("ring-8")
    moved = protocol.cameras(Framing((1.0, 2.0, 3.0), 0.5))
    torch.testing.assert_close(moved[:, :3, :3], protocol.c2w[:, :3, :3])
    torch.testing.assert_close(moved[:, :3, 3], 0.5 * protocol.position + torch.tensor([1.0, 2.0, 3.0]))


def test_framings_of_a_box():
    box = torch.cartesian_prod(torch.tensor([1.0, 5.0]), torch.tensor([0.0, 2.0]), torch.tensor([-1.0, 1.0]))
    vertices = torch.cat([box, torch.tensor([[100.0, 0.0, 0.0]])])  # one vertex that no face uses
    faces = torch.tensor([[a, b, c] for a in range(8) for b in range(a) for c in range(b)])
    framing = unit_cube_framing(vertices, faces)
    assert framing.centre == pytest.approx((3.0, 1.0, 0.0)) and framing.scale == pytest.approx(4.0)
    framing = unit_radius_framing(vertices, faces)
    assert framing.centre == pytest.approx((3.0, 1.0, 0.0)) and framing.scale == pytest.approx(2.0)


def test_unit_radius_does_not_depend_on_the_triangulation():
    vertices = torch.tensor([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 2.0]])
    faces = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]])
    middle = torch.cat([vertices, vertices[[0, 1, 2]].mean(0, keepdim=True)])
    split = torch.cat([faces[1:], torch.tensor([[0, 1, 4], [1, 2, 4], [2, 0, 4]])])
    coarse, fine = unit_radius_framing(vertices, faces), unit_radius_framing(middle, split)
    assert coarse.centre == pytest.approx(fine.centre) and coarse.scale == pytest.approx(fine.scale)
    assert fine.centre != pytest.approx(tuple(middle.mean(0).tolist()), abs=1e-3)  # the mean of the vertices would move


def test_changes_are_part_of_the_name():
    protocol = get_protocol("threestudio-120")
    assert protocol.reduced(120, 512).label == "threestudio-120@1"
    reduced = protocol.reduced(views=30, size=64)
    assert reduced.label == "threestudio-120@1[views=30,size=64]"
    torch.testing.assert_close(reduced.position, protocol.position[::4])
    with pytest.raises(ValueError, match="views=121 of protocol threestudio-120@1; choose 1 to 120"):
        protocol.reduced(views=121)


@pytest.mark.parametrize("name", ["ring-9", "shapes-8@2", "", None])
def test_unknown_protocols_name_the_choices(name):
    with pytest.raises(ValueError, match=r"protocol=.*not known; choose one of threestudio-120"):
        get_protocol(name)
    assert get_protocol("shapes-8@1") is get_protocol("shapes-8")
