"""Rendering of surfaces against closed forms, and a score that knows neither triangles nor file formats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from threestudio.models.mesh import Mesh
from threestudio.utils.mesh_files import mtl_text, obj_text
from uni_instruct_guidance.models.glb import glb_bytes
from uni_instruct_guidance.scoring.clip import clip_numbers
from uni_instruct_guidance.scoring.meshes import Surface, coloured, load_mesh
from uni_instruct_guidance.scoring.protocols import get_protocol
from uni_instruct_guidance.scoring.rendering import Light, get_light, render_surface

FRONT = get_protocol("shapes-8").reduced(views=1, size=64)
# 0.1 CLIP points
POINTS = 0.1


def square(side=0.8, colour=(0.2, 0.4, 0.6)):
    """A square across the view of the first camera of shapes-8, centred on the origin."""
    c2w = FRONT.c2w[0]
    right, up = c2w[:3, 0], c2w[:3, 1]
    corners = torch.stack([side / 2 * (a * right + b * up) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
    return coloured(corners, [[0, 1, 2], [0, 2, 3]], [colour] * 4)


def test_a_square_covers_its_share_of_the_picture_in_its_colour():
    picture = render_surface(square(), FRONT)[0]
    share = (0.8 / (2 * 1.7 * math.tan(math.radians(25)))) ** 2
    background = round(0.95 * 255)
    weight = (picture[..., 0].astype(float) - background) / (0.2 * 255 - background)
    # each of the four edges is placed to within one of 256 samples
    assert weight.mean() == pytest.approx(share, abs=4 * math.sqrt(share) / 256 + 1 / 255)
    assert picture[32, 32].tolist() == [51, 102, 153]
    assert picture[0, 0].tolist() == [242] * 3
    edge = np.unique(weight.round(2))
    assert ((edge > 0.02) & (edge < 0.98)).any()  # antialiased: pixels on the border are mixed


def test_light_is_lambert_in_the_cameras_frame():
    light = Light(direction=(0.0, 0.6, 0.8), ambient=0.3, diffuse=0.5, sky=0.2)
    picture = render_surface(square(colour=(0.8, 0.8, 0.8)), FRONT, light)[0]
    # the square faces the camera: n·l is 0.8, and its normal climbs with the sine of the camera's elevation
    shade = 0.3 + 0.5 * 0.8 + 0.2 * (1 + math.sin(math.radians(15))) / 2
    assert picture[32, 32, 0] == pytest.approx(255 * 0.8 * shade, abs=1)


def test_light_does_not_ask_which_way_faces_are_wound():
    surface = square(colour=(0.8, 0.8, 0.8))
    flipped = Surface(surface.vertices, surface.faces.flip(1), surface.rgb, surface.uv, surface.texture)
    pictures = [render_surface(s, FRONT, Light()) for s in (surface, flipped)]
    assert (pictures[0] == pictures[1]).all()


def test_front_is_towards_x_and_up_is_z():
    """Three small spheres: red in front, green to the left of the object's front (+y), blue on top."""
    balls = [trimesh.creation.icosphere(subdivisions=1, radius=0.12) for _ in range(3)]
    vertices = np.concatenate([ball.vertices + 0.4 * np.eye(3)[axis] for axis, ball in enumerate(balls)])
    faces = np.concatenate([ball.faces + 42 * axis for axis, ball in enumerate(balls)])
    rgb = np.repeat(np.eye(3), 42, axis=0)
    front, side = render_surface(coloured(vertices, faces, rgb), get_protocol("shapes-8").reduced(views=4, size=64))[:2]

    def centre(picture, channel):
        others = [c for c in range(3) if c != channel]
        rows, columns = np.nonzero((picture[..., channel] > 200) & (picture[..., others] < 60).all(-1))
        return rows.mean(), columns.mean()

    assert centre(front, 2)[0] < centre(front, 0)[0] - 8  # blue above red
    assert abs(centre(front, 0)[1] - 31.5) < 1 and centre(front, 1)[1] > 40  # red in the middle, +y to the right
    assert abs(centre(side, 1)[1] - 31.5) < 1 and centre(side, 0)[1] < 24  # a quarter round: +y in the middle


def test_a_texture_is_shown_upright_and_repeats():
    """Upper half red, lower half green; the square spans the texture once, then twice from left to right."""
    texture = torch.zeros(8, 8, 3)
    texture[:4, :, 0], texture[4:, :, 1], texture[:, :4, 2] = 1, 1, 1
    flat = square(colour=(1.0, 1.0, 1.0))
    uv = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    for repeats, columns in ((1, [1, 0]), (2, [1, 0, 1, 0])):
        spread = uv * torch.tensor([repeats, 1.0])
        surface = Surface(flat.vertices, flat.faces, flat.rgb, spread, torch.zeros(2).long(), (texture,))
        picture = render_surface(surface, FRONT)[0]
        assert picture[24, 32].argmax() != 1 and picture[24, 32, 0] > 200  # red above the middle
        assert picture[40, 32, 1] > 200
        # the square is 32.3 pixels wide
        at = [round(32 + 16 * (2 * (i + 0.5) / len(columns) - 1)) for i in range(len(columns))]
        assert [int(picture[24, x, 2] > 128) for x in at] == columns


def test_every_protocol_frames_the_object(mug_surface):
    for name in ("threestudio-120", "ring-8", "t3bench-162x5", "shapes-8"):
        protocol = get_protocol(name).reduced(views=2, size=16)
        pictures = render_surface(mug_surface, protocol)
        assert pictures.shape == (2, 16, 16, 3) and pictures.dtype == np.uint8
        background = np.array([round(255 * value) for value in protocol.background])
        seen = (abs(pictures.astype(int) - background) > 8).any(-1).mean((1, 2))
        assert (seen > 0.05).all() and (name == "t3bench-162x5" or (seen < 0.8).all()), name


# --- invariance -----------------------------------------------------------------------------------------------------


def points(clip, pictures, prompt="a red mug"):
    return clip_numbers(clip.cosine(pictures, prompt))["clip_x100"]


def test_score_does_not_depend_on_the_triangulation(clip, mug, four_views):
    vertices, faces, rgb = mug
    new, new_faces = trimesh.remesh.subdivide(np.concatenate([vertices, rgb], 1), faces)
    shuffled = np.random.default_rng(0).permutation(len(new_faces))
    fine = coloured(new[:, :3], np.roll(new_faces[shuffled], 1, axis=1), new[:, 3:])
    assert len(fine.faces) == 4 * len(faces)
    coarse = render_surface(coloured(*mug), four_views)
    refined = render_surface(fine, four_views)
    assert abs(coarse.astype(int) - refined).max() <= 16  # one of the 16 samples of a pixel may change sides
    assert abs(points(clip, coarse) - points(clip, refined)) <= POINTS
    for light in (Light(),):
        lit = [points(clip, render_surface(s, four_views, light)) for s in (coloured(*mug), fine)]
        assert abs(lit[0] - lit[1]) <= POINTS


@pytest.fixture(scope="module")
def mug_files(mug, tmp_path_factory):
    """The mug with vertex colours as the host writes it: .glb (linear colours, y up) and .obj (z up)."""
    folder = tmp_path_factory.mktemp("mug")
    vertices, faces, rgb = (torch.from_numpy(np.ascontiguousarray(x)) for x in mug)
    mesh = Mesh(vertices, faces.long())
    mesh.set_vertex_color(rgb)
    (folder / "mug.glb").write_bytes(glb_bytes(mesh, vertex_color=True))
    (folder / "mug.obj").write_text(obj_text(mesh, vertex_color=True))
    return folder


def test_score_does_not_depend_on_the_format(clip, mug_surface, mug_files, four_views):
    from_memory = points(clip, render_surface(mug_surface, four_views))
    for name in ("mug.glb", "mug.obj"):
        surface = load_mesh(mug_files / name)
        assert surface.has_colour and not surface.textures
        torch.testing.assert_close(surface.vertices.amax(0), mug_surface.vertices.amax(0), atol=1e-6, rtol=0)
        assert abs(points(clip, render_surface(surface, four_views)) - from_memory) <= POINTS, name


def test_ply_with_vertex_colours_is_the_same_object(clip, mug, mug_surface, four_views, tmp_path):
    vertices, faces, rgb = mug
    trimesh.Trimesh(vertices, faces, vertex_colors=(255 * rgb + 0.5).astype(np.uint8), process=False).export(
        tmp_path / "mug.ply"
    )
    pictures = render_surface(load_mesh(tmp_path / "mug.ply"), four_views)
    assert abs(points(clip, pictures) - points(clip, render_surface(mug_surface, four_views))) <= POINTS


@pytest.fixture(scope="module")
def textured_files(mug, tmp_path_factory):
    """The mug with a texture of slanted stripes by position, as .glb and as .obj with .mtl and .png."""
    folder = tmp_path_factory.mktemp("textured")
    vertices, faces, _ = (torch.from_numpy(np.ascontiguousarray(x)) for x in mug)
    mesh = Mesh(vertices, faces.long())
    uv = (vertices[:, 1:] + 0.65) / 1.3
    mesh.set_uv(uv, faces.long())
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    texture = torch.stack([0.9 * ((x + y) % 16 < 8), 0.1 + 0.3 * (x % 20 < 10), torch.full((64, 64), 0.2)], -1).float()
    picture = (255 * texture.numpy()).astype(np.uint8)
    Image.fromarray(picture).save(folder / "colour.png")
    (folder / "model.mtl").write_text(mtl_text({"map_Kd": "colour.png"}))
    (folder / "model.obj").write_text(obj_text(mesh, "model.mtl", uv=True))
    (folder / "model.glb").write_bytes(glb_bytes(mesh, map_Kd=torch.from_numpy(picture / 255).float()))
    return folder


def test_a_textured_object_scores_the_same_as_glb_and_obj(clip, textured_files, four_views):
    pictures = [render_surface(load_mesh(textured_files / f"model.{s}"), four_views) for s in ("glb", "obj")]
    assert len(load_mesh(textured_files / "model.glb").textures) == 1
    assert abs(pictures[0].astype(int) - pictures[1]).max() <= 16
    assert abs(points(clip, pictures[0]) - points(clip, pictures[1])) <= POINTS
    assert pictures[0].std() > 20  # the stripes are there


def test_plain_materials_and_their_colour_spaces(tmp_path):
    """Factor of glTF is linear light, `Kd` of .mtl is sRGB."""
    linear = 0.2
    srgb = 1.055 * linear ** (1 / 2.4) - 0.055
    box = trimesh.creation.box()
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=[linear, 1.0, 0.0, 1.0])
    box.visual = trimesh.visual.TextureVisuals(material=material)
    box.export(tmp_path / "box.glb")
    (tmp_path / "box.mtl").write_text("newmtl a\nKd 0.2 1 0\n")
    (tmp_path / "box.obj").write_text("mtllib box.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl a\nf 1 2 3\n")
    # trimesh keeps factors in 8 bits
    assert load_mesh(tmp_path / "box.glb").rgb[0].tolist() == pytest.approx([srgb, 1.0, 0.0], abs=5e-3)
    assert load_mesh(tmp_path / "box.obj").rgb[0].tolist() == pytest.approx([0.2, 1.0, 0.0], abs=5e-3)


def test_placed_parts_of_a_scene_keep_their_places(tmp_path):
    scene = trimesh.Scene()
    for offset in (-1.0, 1.0):
        scene.add_geometry(trimesh.creation.box(), transform=trimesh.transformations.translation_matrix([0, offset, 0]))
    scene.export(tmp_path / "two.glb")
    surface = load_mesh(tmp_path / "two.glb")
    # glTF's y is the world's z
    assert surface.vertices[:, 2].min().item() == -1.5 and surface.vertices[:, 2].max().item() == 1.5
    assert len(surface.faces) == 24 and not surface.has_colour
    turned = load_mesh(tmp_path / "two.glb", up="z")
    assert turned.vertices[:, 1].max().item() == 1.5


def test_lights_by_name():
    assert get_light("none") is None and get_light("camera") == Light()
    with pytest.raises(ValueError, match="light='sun' is not known; choose one of none, camera"):
        get_light("sun")
