"""The mesh renderer: closed forms for a ball, gradients to the shape, and what it says about its library."""

import math

import pytest
import torch
from scenes import cameras, grid, renderer

from threestudio.models.background.neural_environment_map_background import NeuralEnvironmentMapBackground
from threestudio.models.materials.diffuse_with_point_light_material import DiffuseWithPointLightMaterial
from threestudio.utils import rasterize

SIZE = {"height": 40, "width": 40}


def test_outputs_of_a_ball():
    """A ball of radius r at distance d under fovy f: its disc, its nearest depth, and its normals are known."""
    geometry = grid(isosurface_resolution=48)
    out = renderer(geometry)(**cameras([0.0, 90.0]), **SIZE)
    assert out["opacity"].shape == (2, 40, 40, 1)
    assert {k: v.shape[-1] for k, v in out.items() if k != "mesh"} == {
        "opacity": 1, "comp_normal": 3, "depth": 1, "comp_rgb_fg": 3, "comp_rgb_bg": 3, "comp_rgb": 3,
    }  # fmt: skip
    # Half the disc's height over the image's: tan(asin(r / d)) / tan(f / 2).
    disc = math.pi * (math.tan(math.asin(0.5 / 2.5)) / math.tan(math.radians(20)) * 20) ** 2
    assert out["opacity"][0].sum().item() == pytest.approx(disc, rel=0.03)
    assert out["depth"][0, 20, 20, 0].item() == pytest.approx(2.0, abs=0.01)
    front = out["comp_normal"][0, 20, 20] * 2 - 1
    expected = torch.tensor([math.cos(math.radians(15)), 0, math.sin(math.radians(15))])
    assert torch.dot(front, expected) > 0.99
    # Seen from +y, the image's right is -x.
    right = out["comp_normal"][1, 20, 28] * 2 - 1
    assert right[0] < -0.3 and right[1] > 0.3
    assert (out["comp_rgb"][0, 0, 0] == 1).all() and (out["comp_normal"][0, 0, 0] == 0).all()
    torch.testing.assert_close(
        out["comp_rgb"], out["comp_rgb_fg"] + (1 - out["opacity"]) * out["comp_rgb_bg"], atol=1e-5, rtol=0
    )
    assert out["mesh"].v_pos.shape[1] == 3


def test_top_of_the_image_is_up():
    geometry = grid()
    geometry.sdf.data = torch.maximum(
        geometry.sdf.data, (0.5 - geometry.isosurface_helper.grid_vertices[:, 2:])
    )  # upper half of the ball
    opacity = renderer(geometry)(**cameras([0.0], elevation_deg=0.0), **SIZE)["opacity"][0, ..., 0]
    assert opacity[:18].sum() > 5 * opacity[22:].sum()


def test_gradients_reach_shape_and_features():
    geometry = grid()
    out = renderer(geometry)(**cameras([30.0]), **SIZE)
    (out["opacity"].sum() + out["comp_rgb"].sum()).backward()
    assert geometry.sdf.grad.abs().sum() > 0 and geometry.deformation.grad.abs().sum() > 0
    assert geometry.encoding.encoding.encoding.params.grad.abs().sum() > 0
    # Raising levels shrinks the ball, and with it the disc.
    (by_level,) = torch.autograd.grad(renderer(geometry)(**cameras([30.0]), **SIZE)["opacity"].sum(), geometry.sdf)
    assert by_level.sum() < 0


def test_shrinks_a_ball_to_the_silhouette_of_another():
    geometry = grid(isosurface_resolution=16, geometry_only=True, isosurface_deformable_grid=False)
    draw = renderer(geometry, supersample=2)
    views = cameras([0.0, 120.0, 240.0])
    target = renderer(grid(isosurface_resolution=16, shape_init_params=0.4))(**views, **SIZE, render_rgb=False)
    optimizer = torch.optim.Adam([geometry.sdf], lr=0.01)
    losses = []
    for _ in range(25):
        loss = (draw(**views, **SIZE, render_rgb=False)["opacity"] - target["opacity"].detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.15 * losses[0]


@pytest.mark.parametrize("supersample", [1, 3])
def test_supersampling_keeps_size_and_mean(supersample):
    out = renderer(grid(), supersample=supersample)(**cameras([0.0]), **SIZE)
    fine = renderer(grid())(**cameras([0.0]), height=160, width=160)["opacity"]
    assert out["opacity"].shape == (1, 40, 40, 1)
    assert out["opacity"].mean().item() == pytest.approx(fine.mean().item(), rel=0.03 / supersample)


def test_render_rgb_is_optional_and_background_may_be_given():
    draw = renderer(grid())
    assert "comp_rgb" not in draw(**cameras([0.0]), **SIZE, render_rgb=False)
    per_image = draw(**cameras([0.0, 9.0]), **SIZE, bg_color=torch.tensor([[1.0, 0, 0], [0, 1, 0]]))["comp_rgb"]
    assert per_image[0, 0, 0].tolist() == [1, 0, 0] and per_image[1, 0, 0].tolist() == [0, 1, 0]
    image = torch.rand(1, 40, 40, 3)
    given = renderer(grid(), supersample=2)(**cameras([0.0]), **SIZE, bg_color=image)["comp_rgb"]
    torch.testing.assert_close(given[0, 0], image[0, 0])


def test_material_and_background_get_what_they_need():
    seen = {}

    class Sky(torch.nn.Module):
        def forward(self, dirs):
            seen["dirs"] = dirs
            return dirs.abs()

    views = cameras([0.0])
    out = renderer(grid(), material=DiffuseWithPointLightMaterial({"ambient_only_steps": 0}), background=Sky())(
        **views, **SIZE, shading="diffuse"
    )
    # Light at the camera: brightest in the middle, where the surface faces it.
    shade = out["comp_rgb"][0].mean(-1)
    assert shade[20, 20] > 1.3 * shade[20, 11]
    torch.testing.assert_close(seen["dirs"].norm(dim=-1), torch.ones(1, 40, 40))
    # The four central rays average to the optical axis.
    axis = torch.nn.functional.normalize(seen["dirs"][0, 19:21, 19:21].mean((0, 1)), dim=0)
    torch.testing.assert_close(axis, torch.nn.functional.normalize(-views["camera_positions"][0], dim=0))
    network = {"otype": "VanillaMLP", "activation": "ReLU", "n_neurons": 8, "n_hidden_layers": 1}
    learned = NeuralEnvironmentMapBackground({"random_aug": False, "mlp_network_config": network})
    assert torch.isfinite(renderer(grid(), background=learned)(**views, **SIZE)["comp_rgb"]).all()


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="context_type=vulkan; choices: gl, cuda"):
        renderer(grid(), context_type="vulkan")
    with pytest.raises(ValueError, match="renderer.supersample=0; must be at least 1"):
        renderer(grid(), supersample=0)


def test_library_is_logged(caplog):
    rasterize._choose.cache_clear()
    with caplog.at_level("INFO"):
        rasterize.NVDiffRasterizerContext("gl", torch.device("cpu"))
    assert "rasteriser: pure torch on cpu" in caplog.text


@pytest.mark.skipif(rasterize.missing_nvdiffrast() is not None, reason=f"nvdiffrast: {rasterize.missing_nvdiffrast()}")
def test_torch_twin_agrees_with_nvdiffrast():
    views = {key: value.cuda() for key, value in cameras([20.0]).items()}
    geometry = grid(isosurface_resolution=12).cuda()
    cuda_draw, torch_draw = renderer(geometry).cuda(), renderer(geometry).cuda()
    torch_draw.ctx.library = rasterize.raster
    torch_draw.ctx.ctx = rasterize.raster.RasterizeCudaContext()
    ours, theirs = (d(**views, height=128, width=128, render_rgb=False) for d in (torch_draw, cuda_draw))
    # nvdiffrast snaps vertices to 1/16 pixel: a few pixels at silhouettes differ.
    assert (ours["opacity"] - theirs["opacity"]).abs().mean() < 1e-3
    assert (ours["comp_normal"] - theirs["comp_normal"]).abs().mean() < 2e-3
