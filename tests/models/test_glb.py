"""glTF binary files: exact round trips through trimesh."""

import numpy as np
import pytest
import torch
import trimesh
from mesh.scenes import grid

from uni_instruct_guidance.models.glb import glb_bytes


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


def written(folder, mesh, **appearance):
    path = folder / "mesh.glb"
    path.write_bytes(glb_bytes(mesh, **appearance))
    return path


def test_textured_glb_round_trip(tmp_path, ball):
    path = written(tmp_path, ball, map_Kd=_texture())
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


def test_metallic_and_roughness_share_a_texture(tmp_path, ball):
    metallic, roughness = torch.ones(4, 4, 1), torch.zeros(4, 4, 1)
    path = written(tmp_path, ball, map_Kd=_texture(), map_Pm=metallic, map_Pr=roughness)
    (loaded,) = trimesh.load(path, process=False).geometry.values()
    packed = np.asarray(loaded.visual.material.metallicRoughnessTexture)
    assert (packed[..., 1] == 0).all() and (packed[..., 2] == 255).all()
    assert loaded.visual.material.metallicFactor == 1 and loaded.visual.material.roughnessFactor == 1


def test_vertex_colored_glb_is_linear(tmp_path, ball):
    path = written(tmp_path, ball, vertex_color=True)
    (loaded,) = trimesh.load(path, process=False).geometry.values()
    assert len(loaded.vertices) == len(ball.v_pos) and loaded.is_watertight
    assert loaded.euler_number == 2
    srgb = ball.v_rgb.numpy()
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    # 16 bits, and a material that is no metal: a viewer's default one is
    np.testing.assert_allclose(loaded.visual.vertex_attributes["color"][:, :3] / 65535, linear, atol=1 / 65535)
    assert loaded.visual.material.metallicFactor == 0


def test_plain_glb(tmp_path, ball):
    (loaded,) = trimesh.load(written(tmp_path, ball), process=False).geometry.values()
    assert loaded.is_watertight and loaded.visual.material.roughnessFactor == 1
