"""Light from all around and the material in it, against closed forms."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from backends.environment_light import EnvironmentLight, directions, read_hdr
from backends.libraries.envlight import EnvLight
from threestudio.models.materials.pbr_material import PBRMaterial, environment_brdf
from uni_instruct_guidance.models.material import EVEN, UniInstructPBRMaterial

ROOT = Path(__file__).parents[2]


def write_hdr(path, picture, coded=True):
    """Radiance picture of one shared exponent, run-length coded or plain."""
    height, width, _ = picture.shape
    rgbe = np.concatenate([np.rint(picture * 64), np.full((height, width, 1), 130.0)], axis=-1).astype(np.uint8)
    body = rgbe.tobytes()
    if coded:
        body = b""
        for row in rgbe:
            body += bytes([2, 2, width // 256, width % 256])
            for channel in row.T:
                half = width // 2
                body += (
                    bytes([128 + half, channel[0]])
                    if (channel[:half] == channel[0]).all()
                    else (bytes([half]) + channel[:half].tobytes())
                )
                body += bytes([width - half]) + channel[half:].tobytes()
    path.write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n" + f"-Y {height} +X {width}\n".encode() + body)
    return path


def test_even_light_is_one_from_everywhere():
    light = EnvironmentLight(str(ROOT / EVEN), scale=2.0)
    around = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    torch.testing.assert_close(light.diffuse(around), torch.full((50, 3), 2.0))
    torch.testing.assert_close(light.specular(around, torch.rand(50, 1)), torch.full((50, 3), 2.0))


@pytest.mark.parametrize("coded", [True, False])
def test_sky_above_dark_ground(tmp_path, coded):
    """A matt surface tilted by θ gets (1 + cos θ) / 2 of a bright upper half; a mirror sees up or down."""
    picture = np.zeros((32, 64, 3))
    picture[:16] = [1.0, 0.5, 0.25]
    path = write_hdr(tmp_path / "sky.hdr", picture, coded)
    np.testing.assert_allclose(read_hdr(str(path)), picture)
    light = EnvironmentLight(str(path))
    tilt = torch.linspace(0, math.pi, 9)
    normals = torch.stack([tilt.sin(), tilt.cos(), torch.zeros(9)], dim=-1)  # the picture's top is at +y
    torch.testing.assert_close(light.diffuse(normals)[:, 0], (1 + tilt.cos()) / 2, atol=0.03, rtol=0)
    up_down = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    mirrored = light.specular(up_down, torch.zeros(2, 1))[:, 0]
    torch.testing.assert_close(mirrored, torch.tensor([1.0, 0.0]), atol=1e-3, rtol=0)


def test_columns_turn_about_y(tmp_path):
    """One bright column of the picture is seen in its own direction, also across the border."""
    _, area = directions()
    assert area.sum().item() == pytest.approx(4 * math.pi, rel=2e-3)
    picture = np.zeros((16, 32, 3))
    picture[:, 0] = 1.0
    light = EnvLight(str(write_hdr(tmp_path / "column.hdr", picture)))
    # the middle of the picture is at -z, its quarter points at -x and +x
    turn = torch.tensor([-180.0, -174.0, -90.0, 0.0, 90.0]).deg2rad()
    around = torch.stack([turn.sin(), torch.zeros(5), -turn.cos()], dim=-1)
    seen = light(around, roughness=torch.zeros(5, 1))
    assert seen.shape == (5, 3)
    seen = seen[:, 0]
    assert seen[1] == seen.max() and seen[0] > 0.3 * seen[1] and seen[2:].max() < 0.05 * seen[1]
    matt = light(around.view(1, 5, 3))
    assert matt.shape == (1, 5, 3) and matt[0, :, 0].argmax() == 1 and matt[0, 3, 0] < 0.05 * matt.max()
    with pytest.raises(ValueError, match="needs envlight itself"):
        EnvLight(trainable=True)


def test_light_of_the_project_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    material = UniInstructPBRMaterial({})
    torch.testing.assert_close(material.light.diffuse(torch.eye(3)), torch.full((3, 3), 2.0))  # stock scale
    with pytest.raises(ValueError, match="environment_texture=no.hdr: no such file"):
        UniInstructPBRMaterial({"environment_texture": "no.hdr"})


def test_share_of_even_light_that_is_reflected():
    """Karis's closed form: all of F0 = 1 comes back from a mirror; grazing views reflect more of a dielectric."""
    scale, bias = environment_brdf(torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([[1.0], [0.05], [1.0]]))
    share = 0.04 * scale + bias
    assert (scale + bias)[0].item() == pytest.approx(1.0, abs=0.05)
    assert share[1] > 5 * share[0] and 0 <= share[2] < 0.06


def test_material_in_even_light():
    material = PBRMaterial({"environment_texture": str(ROOT / EVEN), "environment_scale": 0.5, "use_bump": True})
    assert material.requires_normal and material.requires_tangent
    # bump features of 0.5 after the sigmoid leave the normal alone
    features = torch.cat([torch.randn(6, 5), torch.zeros(6, 3)], dim=-1).requires_grad_(True)
    normal = torch.tensor([[0.0, 0.0, 1.0]]).expand(6, 3)
    view = torch.nn.functional.normalize(torch.tensor([[0.3, 0.0, -1.0]]), dim=-1).expand(6, 3)
    rgb = material(features, viewdirs=view, shading_normal=normal, tangent=torch.tensor([[1.0, 0, 0]]).expand(6, 3))
    is_what = material.channels(features)
    scale, bias = environment_brdf(is_what["roughness"], -view[:, 2:])
    f0 = 0.04 * (1 - is_what["metallic"]) + is_what["metallic"] * is_what["albedo"]
    expected = 0.5 * ((1 - is_what["metallic"]) * is_what["albedo"] + f0 * scale + bias)
    torch.testing.assert_close(rgb, expected.clamp(0, 1))
    torch.autograd.grad(rgb.sum(), features)
    out = material.export(features)
    assert {name: value.shape[-1] for name, value in out.items()} == {
        "albedo": 3, "metallic": 1, "roughness": 1, "bump": 3
    }  # fmt: skip
    torch.testing.assert_close(out["bump"], torch.tensor([[0.5, 0.5, 1.0]]).expand(6, 3))


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"environment_texture": "no.hdr"}, "no.hdr: no such file; give a Radiance .hdr picture"),
        ({"environment_texture": __file__}, "is not a Radiance"),
    ],
)
def test_mistakes_are_named(cfg, message):
    with pytest.raises(ValueError, match=message):
        PBRMaterial(cfg)
    with pytest.raises(ValueError, match="pbr-material needs geometry.n_feature_dims=8, not 3"):
        PBRMaterial({"environment_texture": str(ROOT / EVEN)}).channels(torch.zeros(1, 3))


def test_a_cut_picture_is_named(tmp_path):
    path = write_hdr(tmp_path / "cut.hdr", np.ones((16, 32, 3)))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="cut short or garbled"):
        read_hdr(str(path))
