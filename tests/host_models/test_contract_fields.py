"""Density bias, encodings, networks and defaults against the values that the reference computed."""

import pytest
import torch
from host.contract_values import CONTRACT, close, numbers
from omegaconf import OmegaConf
from omegaconf.errors import ValidationError

import threestudio
from threestudio.models.geometry.implicit_volume import ImplicitVolume
from threestudio.models.networks import get_encoding, get_mlp

DENSITY = CONTRACT["density_bias"]
ENCODINGS = CONTRACT["encodings"]
TINY = {
    "pos_encoding_config": {"otype": "ProgressiveBandFrequency", "n_frequencies": 4, "include_xyz": True},
    "mlp_network_config": {"otype": "VanillaMLP", "activation": "ReLU", "n_neurons": 32, "n_hidden_layers": 1},
}


@pytest.mark.parametrize("case", DENSITY["cases"])
def test_density_bias_and_activation(case):
    keys = ("density_bias", "density_activation", "density_blob_scale", "density_blob_std")
    volume = ImplicitVolume({**TINY, **{key: case[key] for key in keys}})
    points = numbers(DENSITY["points"])
    for value in (0.0, 1.0):
        expected = case[f"raw_density_in_{value:.0f}"]
        raw, density = volume.get_activated_density(points, torch.full((len(points), 1), value))
        assert raw.shape == density.shape == (len(points), 1)
        close(raw[:, 0], expected["raw"])
        close(density[:, 0], expected["density"])


def test_density_bias_mistakes():
    with pytest.raises(ValidationError):
        ImplicitVolume({**TINY, "density_bias": 1})
    unknown = ImplicitVolume({**TINY, "density_bias": "cube"})
    with pytest.raises(ValueError, match=r"density_bias=cube; choices: a float, blob_magic3d"):
        unknown.get_activated_density(torch.zeros(1, 3), torch.zeros(1, 1))


def test_level_is_negative_inside():
    case = DENSITY["forward_level"]
    close(ImplicitVolume(TINY).forward_level(numbers(case["field"]), case["threshold"]), case["out"])


def test_defaults_of_implicit_volume():
    defaults = OmegaConf.to_container(OmegaConf.structured(ImplicitVolume.Config()))
    expected = dict(DENSITY["defaults"])
    scale = defaults["pos_encoding_config"].pop("per_level_scale")
    assert scale == pytest.approx(expected["pos_encoding_config"].pop("per_level_scale"), abs=1e-6)
    assert defaults == expected


def test_state_dict_names_and_shapes():
    shapes = {key: list(value.shape) for key, value in ImplicitVolume(TINY).state_dict().items()}
    assert shapes == DENSITY["state_dict_names_shapes"]


def test_hash_grid_weights_have_the_references_name():
    config = {"otype": "HashGrid", "n_levels": 2, "n_features_per_level": 2, "log2_hashmap_size": 8}
    volume = ImplicitVolume({**TINY, "pos_encoding_config": config})
    assert "encoding.encoding.encoding.params" in volume.state_dict()


@pytest.mark.parametrize("case", ENCODINGS["cases"])
def test_progressive_frequency(case):
    encoding = get_encoding(3, {"otype": "ProgressiveBandFrequency", **case["config"]})
    encoding.encoding.update_mask(case["global_step"])
    close(encoding.encoding.mask, case["mask"])
    if "out" in case:  # the others repeat the mask of one that has it
        close(encoding(numbers(ENCODINGS["x"])), case["out"])
    assert encoding.n_output_dims == ENCODINGS["n_output_dims"]


def test_progressive_frequency_follows_the_training_step():
    case = next(c for c in ENCODINGS["cases"] if c["config"].get("n_masking_step") and c["global_step"] == 625)
    encoding = get_encoding(3, {"otype": "ProgressiveBandFrequency", **case["config"]})
    encoding.do_update_step(0, case["global_step"])
    close(encoding(numbers(ENCODINGS["x"])), case["out"])


def test_encoding_with_the_point_itself():
    case = ENCODINGS["with_xyz"]
    encoding = get_encoding(3, case["config"])
    close(encoding(numbers(ENCODINGS["x"])), case["out"])
    assert encoding.n_output_dims == case["n_output_dims"]


def test_encoding_of_two_dimensions():
    case = ENCODINGS["two_dims"]
    encoding = get_encoding(2, {"otype": "ProgressiveBandFrequency", "n_frequencies": case["n_frequencies"]})
    close(encoding(numbers(ENCODINGS["x"])[:, :2]), case["out"])


def test_plain_mlp():
    case = ENCODINGS["vanilla_mlp"]
    mlp = get_mlp(*case["dims"], case["config"])
    assert {key: list(value.shape) for key, value in mlp.state_dict().items()} == case["state_dict"]

    case = ENCODINGS["vanilla_mlp_values"]
    mlp = get_mlp(*case["dims"], case["config"])
    assert {key: list(value.shape) for key, value in mlp.state_dict().items()} == case["state_dict"]
    with torch.no_grad():
        for j, weight in enumerate(mlp.parameters()):
            weight.copy_((torch.cos(torch.arange(weight.numel()) * float(j + 1)) / 2).view_as(weight))
    close(mlp(numbers(case["x"])), case["out"])


def test_hash_grid_levels_open_one_by_one():
    config = {
        "otype": "ProgressiveBandHashGrid",
        "n_levels": 4,
        "n_features_per_level": 2,
        "log2_hashmap_size": 8,
        "base_resolution": 4,
        "per_level_scale": 1.5,
        "start_level": 2,
        "start_step": 100,
        "update_steps": 50,
    }
    encoding = get_encoding(3, config)
    x = torch.rand(5, 3)
    for step, n_open in [(0, 2), (149, 2), (150, 3), (200, 4), (1000, 4)]:
        encoding.do_update_step(0, step)
        features = encoding(x)
        assert (features[:, 2 * n_open :] == 0).all() and (features[:, : 2 * n_open] != 0).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: get_encoding(3, {"otype": "HashGird"}), "otype=HashGird; choices: .*HashGrid"),
        (lambda: get_encoding(3, {"otype": "ProgressiveBandFrequency"}), "needs the key 'n_frequencies'"),
        (lambda: get_mlp(3, 1, {"otype": "MLP"}), "otype=MLP; choices: VanillaMLP"),
        (lambda: get_mlp(3, 1, {"otype": "VanillaMLP", "output_activation": "relux"}), "activation 'relux'"),
    ],
)
def test_mistakes_name_value_and_choices(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_registered_names():
    names = {
        "implicit-volume",
        "volume-grid",
        "nerf-volume-renderer",
        "no-material",
        "diffuse-with-point-light-material",
        "solid-color-background",
        "neural-environment-map-background",
    }
    assert names <= set(CONTRACT["errors"]["registered"])
    assert names <= set(threestudio.__modules__)
