"""Materials, backgrounds and volume rendering against the values that the reference computed."""

import pytest
import torch
from host.contract_values import CONTRACT, close, numbers
from omegaconf import OmegaConf

import threestudio
from threestudio.models.geometry.base import BaseImplicitGeometry

MATERIALS = CONTRACT["materials_backgrounds"]
RENDERING = CONTRACT["volume_rendering"]


def build(name, cfg=None, **kwargs):
    return threestudio.find(name)(cfg or {}, **kwargs).eval()


def defaults(name):
    return OmegaConf.to_container(OmegaConf.structured(threestudio.find(name).Config()))


def test_no_material():
    case = MATERIALS["no_material"]
    material = build("no-material")
    assert material.requires_normal is case["requires_normal"]
    close(material(features=numbers(case["features"])), case["out"])
    close(material.export(features=numbers(case["features"]))["albedo"], case["export"]["albedo"])


def test_point_light_material():
    case = MATERIALS["diffuse_with_point_light"]
    got, expected = defaults("diffuse-with-point-light-material"), case["defaults"]
    assert {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in got.items()} == expected
    inputs = {key: numbers(case[key]) for key in ("features", "positions", "shading_normal", "light_positions")}
    material = build("diffuse-with-point-light-material")
    assert material.requires_normal
    close(material(**inputs), case["out"])
    explicit = {key: value for key, value in case["explicit"].items() if key != "out"}
    close(material(**inputs, **explicit), case["explicit"]["out"])
    close(material(**inputs, shading="textureless"), case["textureless"])
    close(material(**inputs, shading="albedo"), case["albedo"])
    material.update_step(0, 2000)
    close(material(**inputs), case["eval_after_step_2000"])


def test_solid_color_background():
    case = MATERIALS["solid_color"]
    got = defaults("solid-color-background")
    assert {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in got.items()} == case["defaults"]
    background = build("solid-color-background", {"color": tuple(case["color"])})
    close(background(dirs=torch.zeros(case["dirs_shape"])), case["out"])


class Ball(BaseImplicitGeometry):
    """The reference's test scene: density 5 inside of radius ½, colour (½, 0.73, 0.27)."""

    def forward(self, points, output_normal=False):
        features = torch.tensor([0.0, 1.0, -1.0]).expand(points.shape)
        return {"density": self.forward_density(points), "features": features}

    def forward_density(self, points):
        return 5.0 * (points.norm(dim=-1, keepdim=True) < 0.5).float()


def zero_volume():
    volume = build(
        "implicit-volume",
        {"pos_encoding_config": {"otype": "ProgressiveBandFrequency", "n_frequencies": 4}, "normal_type": None},
    )
    for parameter in volume.parameters():
        torch.nn.init.zeros_(parameter)
    return volume


def row_of_the_contract(case):
    """The renderer, and its images of the contract's row of pixels."""
    geometry = Ball({}) if case["geometry"].startswith("ball") else zero_volume()
    renderer = build(
        "nerf-volume-renderer",
        case["renderer_cfg"],
        geometry=geometry,
        material=build("no-material"),
        background=build("solid-color-background"),
    )
    directions = numbers(RENDERING["rays_d_row"])[None, None]
    origins = numbers(RENDERING["rays_o"]).expand_as(directions)
    with torch.no_grad():
        return renderer, renderer(rays_o=origins, rays_d=directions, light_positions=origins[:, 0, 0])


@pytest.mark.parametrize("case", RENDERING["cases"], ids=["ball-256", "ball-64", "zero-volume-256"])
def test_images_of_the_reference(case):
    renderer, images = row_of_the_contract(case)
    assert renderer.render_step_size == pytest.approx(case["render_step_size"], rel=1e-6)
    assert sorted(images) == case["keys"]
    # half a step of freedom in placing the samples at the surface of the ball
    tolerance = 0.01 if case["renderer_cfg"]["num_samples_per_ray"] == 256 else 0.03
    for key in ("opacity", "depth", "z_variance"):
        assert images[key].shape == (1, 1, 16, 1)
        close(images[key][0, 0, :, 0], case[key], atol=tolerance, rtol=0)
    for key in ("comp_rgb", "comp_rgb_fg"):
        close(images[key][0, 0], case[key], atol=tolerance, rtol=0)
    assert (images["comp_rgb_bg"] == 1).all()


def test_depth_and_opacity_of_the_analytic_ball():
    _, images = row_of_the_contract(
        {"geometry": "ball", "renderer_cfg": {"num_samples_per_ray": 2048, "grid_prune": False}}
    )
    exact = RENDERING["ball_analytic"]
    # step 0.0017: the chord is known to two of them, at density 5
    close(images["opacity"][0, 0, :, 0], exact["opacity"], atol=0.01, rtol=0)
    hit = [i for i, depth in enumerate(exact["depth"]) if depth is not None]
    depth = (images["depth"] / images["opacity"])[0, 0, hit, 0] * numbers([exact["opacity"][i] for i in hit])
    close(depth, [exact["depth"][i] for i in hit], atol=0.01, rtol=0)


def test_renderer_defaults():
    got = defaults("nerf-volume-renderer")
    assert got == RENDERING["renderer_defaults"]


def test_keys_in_training():
    renderer, _ = row_of_the_contract(RENDERING["cases"][1])
    renderer.train()
    origins = torch.tensor([0.0, -2.0, 0.0]).expand(1, 2, 2, 3)
    out = renderer(
        rays_o=origins, rays_d=torch.tensor([0.0, 1.0, 0.0]).expand(1, 2, 2, 3), light_positions=origins[:, 0, 0]
    )
    assert sorted(out) == RENDERING["keys_in_training"]
    assert len(out["points"]) == len(out["weights"]) == len(out["ray_indices"]) == len(out["features"])
