"""What materials and backgrounds draw in training, and what they learn from."""

import math
from collections import Counter

import pytest
import torch

import threestudio

DIRECTIONS = torch.nn.functional.normalize(torch.randn(2, 3, 4, 3, generator=torch.Generator().manual_seed(1)), dim=-1)


def build(name, **cfg):
    return threestudio.find(name)(cfg).train()


def lit_inputs():
    features = torch.tensor([[0.0, 1.0, -1.0]])
    normal = torch.tensor([[0.0, 0.0, 1.0]])
    return {
        "features": features,
        "positions": torch.zeros(1, 3),
        "shading_normal": normal,
        "light_positions": normal * 2,
    }


def test_shadings_are_drawn_with_their_probabilities():
    material = build("diffuse-with-point-light-material", ambient_only_steps=0)
    inputs = lit_inputs()
    material.ambient_light_color.fill_(0.1)
    looks = {}
    for shading in ("albedo", "textureless", "diffuse"):
        inputs["light_positions"] = torch.tensor([[1.0, 0, 1.0]])
        looks[shading] = material(**inputs, shading=shading)
    draws = 400
    counts = Counter(
        next(name for name, look in looks.items() if torch.allclose(look, image))
        for image in (material(**inputs) for _ in range(draws))
    )
    # default probabilities: no light 1/4, of the rest half without colour
    for name, probability in {"albedo": 0.25, "textureless": 0.375, "diffuse": 0.375}.items():
        deviation = 4 * math.sqrt(draws * probability * (1 - probability))
        assert abs(counts[name] - draws * probability) < deviation


def test_only_albedo_during_the_first_steps():
    material = build("diffuse-with-point-light-material", ambient_only_steps=10)
    material.update_step(0, 9)
    inputs = lit_inputs()
    for _ in range(20):
        torch.testing.assert_close(material(**inputs), torch.sigmoid(inputs["features"]))
    material.update_step(0, 10)
    assert not material.ambient_only


def test_every_shading_keeps_both_inputs_in_the_graph():
    material = build("diffuse-with-point-light-material")
    for shading in ("albedo", "textureless", "diffuse"):
        inputs = {key: value.clone().requires_grad_() for key, value in lit_inputs().items()}
        material(**inputs, shading=shading).sum().backward()
        assert inputs["features"].grad is not None and inputs["shading_normal"].grad is not None


def test_soft_shading_draws_the_share_of_the_light():
    material = build("diffuse-with-point-light-material", soft_shading=True)
    inputs = lit_inputs() | {"light_positions": torch.tensor([[0.0, 0.0, -2.0]])}  # behind: only ambient light
    shares = torch.stack([material(**inputs, shading="textureless")[0] for _ in range(50)])
    assert (shares == shares[:, :1]).all() and shares.min() < 0.2 and shares.max() > 0.8


def test_unknown_shading_is_named():
    with pytest.raises(ValueError, match="shading=phong; choices: albedo, textureless, diffuse"):
        build("diffuse-with-point-light-material")(**lit_inputs(), shading="phong")


def test_material_and_features_must_fit():
    with pytest.raises(ValueError, match=r"material.n_output_dims=3 but geometry.n_feature_dims=8"):
        build("no-material")(features=torch.zeros(2, 8))
    mlp = {"otype": "VanillaMLP", "activation": "ReLU", "n_neurons": 8, "n_hidden_layers": 1}
    material = build("no-material", input_feature_dims=8, mlp_network_config=mlp)
    assert material(features=torch.zeros(2, 5, 8)).shape == (2, 5, 3)


def test_learned_solid_background_learns():
    background = build("solid-color-background", learned=True, color=(0.2, 0.4, 0.6))
    background(dirs=DIRECTIONS).sum().backward()
    assert background.env_color.grad.tolist() == [24.0] * 3
    with pytest.raises(ValueError, match=r"background.color=\[0.5\] must have n_output_dims=3"):
        build("solid-color-background", color=(0.5,))


@pytest.mark.parametrize(("share", "different"), [(False, True), (True, False)])
def test_random_background_is_one_colour_per_image(share, different):
    background = build("neural-environment-map-background", random_aug=True, random_aug_prob=1.0, share_aug_bg=share)
    color = background(dirs=DIRECTIONS)
    assert torch.equal(color, color[:, :1, :1].expand_as(color))
    assert (color[0, 0, 0] != color[1, 0, 0]).any().item() is different
    color.sum().backward()
    # parameters stay in the graph (distributed training insists on it) but learn nothing from a drawn colour
    assert all((p.grad == 0).all() for p in background.parameters())


def test_neural_background_learns_a_gradient_of_colour():
    background = build("neural-environment-map-background")
    optimiser = torch.optim.Adam(background.parameters(), lr=0.02)
    directions = torch.nn.functional.normalize(torch.randn(1, 16, 16, 3), dim=-1)
    target = (directions + 1) / 2
    for _ in range(200):
        loss = (background(dirs=directions) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.003  # the variance of the target is 1/12


def test_evaluation_colour():
    background = build("neural-environment-map-background", eval_color=(0.1, 0.2, 0.3))
    assert (background(dirs=DIRECTIONS)[0, 0, 0] - torch.tensor([0.1, 0.2, 0.3])).abs().max() > 1e-3
    shown = background.eval()(dirs=DIRECTIONS)
    torch.testing.assert_close(shown, torch.tensor([0.1, 0.2, 0.3]).expand(2, 3, 4, 3))
