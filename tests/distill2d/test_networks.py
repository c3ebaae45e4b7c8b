"""EDM networks: names and shapes of the published weights, outputs against a slow independent implementation."""

from __future__ import annotations

import re

import edm_tables
import naive_edm
import pytest
import torch
from torch import nn

from uni_instruct_guidance.teachers.edm import EDM_PRESETS, build_network
from uni_instruct_guidance.teachers.edm.block import ADM, SONG, UNetBlock

# Published sizes: 55.7 M and 295.9 M.
PUBLISHED = {
    "cifar10-uncond": (lambda: edm_tables.cifar10(0), 55.7e6),
    "cifar10-cond": (lambda: edm_tables.cifar10(10), 55.7e6),
    "imagenet64": (edm_tables.imagenet64, 295.9e6),
}
# float64: what remains is the order of summation, over at most a few thousand terms a layer.
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def shuffled(network: nn.Module) -> nn.Module:
    """float64, and every parameter drawn anew: no branch is silent, no bias zero, as after training."""
    network = network.double().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            spread = 1 / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(torch.randn_like(parameter) * spread + ("norm" in name and name.endswith("weight")))
    return network


@pytest.mark.parametrize("preset", PUBLISHED)
def test_names_and_shapes_are_the_published_ones(preset):
    table, published = PUBLISHED[preset]
    with torch.device("meta"):
        network = build_network(preset)
    expected = table()
    assert {name: tuple(t.shape) for name, t in network.state_dict().items()} == expected
    parameters = sum(p.numel() for p in network.parameters())
    counted = sum(torch.Size(shape).numel() for name, shape in expected.items() if not name.endswith("resample_filter"))
    assert parameters == counted
    assert abs(parameters - published) < 0.05e6  # the published figures have four digits


SONG_NET = dict(model_type="SongUNet", img_resolution=8, img_channels=2, model_channels=8, channel_mult=(1, 2))
NETWORKS = {
    "ddpmpp": dict(SONG_NET, label_dim=3, augment_dim=4, num_blocks=1, attn_resolutions=(4,)),
    "ddpmpp-attention-on-top": dict(SONG_NET, num_blocks=2, attn_resolutions=(8,), sigma_data=0.7),
    "ncsnpp": dict(
        SONG_NET, label_dim=3, num_blocks=1, attn_resolutions=(4,), embedding_type="fourier", channel_mult_noise=2,
        encoder_type="residual", resample_filter=(1, 3, 3, 1), channel_mult=(1, 2, 2),
    ),
    "adm": dict(
        model_type="DhariwalUNet", img_resolution=4, img_channels=2, model_channels=64, channel_mult=(1, 2),
        label_dim=3, augment_dim=4, num_blocks=1, attn_resolutions=(2,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_network_equals_the_slow_implementation(name):
    network = shuffled(build_network(NETWORKS[name]))
    config = network.config
    x = torch.randn(2, 2, config["img_resolution"], config["img_resolution"], dtype=torch.float64)
    sigma = torch.tensor([0.05, 3.0], dtype=torch.float64)
    labels = torch.eye(3, dtype=torch.float64)[[2, 0]] if config.get("label_dim") else None
    augment = torch.randn(2, 4, dtype=torch.float64) if config.get("augment_dim") else None
    with torch.no_grad():
        x0, features = network.forward_with_features(x, sigma, labels, augment)
        expected, bottleneck = naive_edm.denoise(x, sigma, labels, augment, config, network.state_dict())
    torch.testing.assert_close(x0, expected, **CLOSE)
    torch.testing.assert_close(features, bottleneck, **CLOSE)
    assert features.shape[1:] == (network.feature_channels, network.feature_resolution, network.feature_resolution)


BLOCKS = {
    "plain": (8, 8, SONG, {}),
    "wider": (8, 12, SONG, {}),
    "attention": (8, 8, SONG, {"attention": True}),
    "down": (8, 8, SONG, {"resample": "down"}),
    "up": (8, 8, SONG, {"resample": "up"}),
    "down-1331": (8, 8, SONG, {"resample": "down", "taps": (1, 3, 3, 1)}),
    "up-1331": (8, 8, SONG, {"resample": "up", "taps": (1, 3, 3, 1)}),
    "adaptive": (8, 8, ADM, {}),
    "adaptive-two-heads": (8, 128, ADM, {"attention": True}),
    "adaptive-down": (8, 8, ADM, {"resample": "down"}),
    "adaptive-up-wider": (8, 12, ADM, {"resample": "up"}),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_block_equals_the_slow_implementation(name):
    c, d, style, options = BLOCKS[name]
    module = shuffled(UNetBlock(c, d, emb_channels=6, style=style, **options))
    x, emb = torch.randn(2, c, 4, 4, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = naive_edm.block(x, emb, module.state_dict(), adm=style is ADM, direction=options.get("resample"))
        torch.testing.assert_close(module(x, emb), expected, **CLOSE)


def test_shortcut_of_a_resampled_block():
    """DDPM++ projects it even where the channels stay the same; ADM only filters."""
    down = {"emb_channels": 6, "resample": "down"}
    assert "skip.weight" in UNetBlock(8, 8, style=SONG, **down).state_dict()
    adm = UNetBlock(8, 8, style=ADM, **down).state_dict()
    assert "skip.weight" not in adm and "skip.resample_filter" in adm


@pytest.mark.parametrize("preset", ["tiny", "digits-uncond"])
def test_a_fresh_network_is_its_skip_path(preset):
    """The last layer starts at almost nothing, so D(x; σ) = c_skip x: the best guess before anything is learned."""
    network = build_network(preset).eval()
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 20.0])
    with torch.no_grad():
        x0 = network(x, sigma)
    c_skip = 0.25 / (sigma**2 + 0.25)
    # Xavier × 1e-5 on activations of order 1: an output of order 1e-5.
    torch.testing.assert_close(x0, c_skip[:, None, None, None] * x, atol=1e-3, rtol=0)


def test_features_come_without_the_decoder():
    network = shuffled(build_network("tiny", label_dim=2))
    x, sigma, labels = torch.randn(2, 1, 8, 8).double(), torch.tensor([0.3, 1.0]), torch.eye(2)
    _, features = network.forward_with_features(x, sigma, labels)
    for parameter in network.model.dec.parameters():
        parameter.data.fill_(float("nan"))
    torch.testing.assert_close(network.encode_features(x, sigma, labels), features, rtol=0, atol=0)


def test_gradient_reaches_the_noisy_picture():
    network = shuffled(build_network("tiny", img_resolution=4, model_channels=4, attn_resolutions=(2,)))
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor([0.8], dtype=torch.float64)
    torch.autograd.gradcheck(lambda x: network.forward_with_features(x, sigma), (x,))


def test_one_noise_level_serves_the_batch():
    network = shuffled(build_network("tiny"))
    x = torch.randn(3, 1, 8, 8).double()
    torch.testing.assert_close(network(x, torch.tensor(0.7)), network(x, torch.full((3,), 0.7)))


def test_autocast_answers_in_float32():
    network = shuffled(build_network("tiny")).float()
    x, sigma = torch.randn(4, 1, 8, 8), torch.tensor([0.05, 0.3, 1.0, 5.0])
    with torch.no_grad():
        exact = network(x, sigma)
        with torch.autocast("cpu", torch.bfloat16):
            rounded, features = network.forward_with_features(x, sigma)
    assert rounded.dtype == torch.float32 and features.dtype == torch.bfloat16
    error = (rounded - exact).norm() / exact.norm()
    assert 0 < error < 0.03  # bfloat16 rounds at 2^-9 = 0.2 % a layer, over some twenty layers


def test_the_config_makes_the_same_network():
    network = build_network({"preset": "tiny", "label_dim": 4}, dropout=0.2)
    again = build_network(network.config)
    assert again.config == network.config and again.config["label_dim"] == 4 and again.config["dropout"] == 0.2
    assert list(again.state_dict()) == list(network.state_dict())


@pytest.mark.parametrize("preset", EDM_PRESETS)
def test_every_preset_builds(preset):
    with torch.device("meta"):
        network = build_network(preset)
        n, config = network.label_dim, network.config
        x = torch.zeros(2, config["img_channels"], config["img_resolution"], config["img_resolution"])
        assert network(x, torch.ones(2), torch.zeros(2, n) if n else None).shape == x.shape


BAD_CONFIGS = {
    "unknown preset": (("cifar100", {}), "network='cifar100'.*cifar10-uncond"),
    "unknown model": (({"model_type": "DiT", "img_resolution": 8, "img_channels": 1}, {}), "DiT.*SongUNet"),
    "unknown argument": (("tiny", {"model_chanels": 8}), "network has no option 'model_chanels'.*model_channels"),
    "argument of the other U-Net": (("imagenet64", {"encoder_type": "residual"}), "no option 'encoder_type'"),
    "channels twice": (("tiny", {"in_channels": 3}), "no option 'in_channels'"),
    "embedding": (("tiny", {"embedding_type": "learned"}), "embedding_type='learned'.*positional, fourier"),
    "encoder": (("tiny", {"encoder_type": "skip"}), "encoder_type='skip'.*standard, residual"),
    "no resolution": (({"model_type": "SongUNet", "img_channels": 1}, {}), "network.img_resolution is missing"),
    "odd resolution": (("tiny", {"img_resolution": 9}), "img_resolution=9 cannot be halved 1 times"),
    "no channels": (("tiny", {"model_channels": 0}), "network.model_channels=0; expected a positive integer"),
    "text": (("tiny", {"num_blocks": "two"}), "network.num_blocks='two'; expected a positive integer"),
    "number for a list": (("tiny", {"channel_mult": 2}), "network.channel_mult=2; expected at least one positive"),
    "no levels": (("tiny", {"channel_mult": []}), "network.channel_mult=\\(\\); expected at least one positive"),
    "classes": (("tiny", {"label_dim": -1}), "network.label_dim=-1; expected an integer, 0 for none"),
    "dropout": (("tiny", {"dropout": 1.0}), "network.dropout=1.0; expected a probability below 1"),
    "sigma_data": (("tiny", {"sigma_data": 0}), "network.sigma_data=0; expected a positive number"),
    "heads": (("imagenet64", {"model_channels": 100}), "200 channels do not divide among 3 attention heads"),
    "odd filter": (("tiny", {"resample_filter": (1, 2, 1)}), "resample_filter=\\[1, 2, 1\\].*even number of taps"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_configs_are_named(case):
    (network, overrides), message = BAD_CONFIGS[case]
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build_network(network, **overrides)


BAD_INPUTS = {
    "resolution": (dict(x=torch.zeros(2, 1, 16, 16)), "x has shape [2, 1, 16, 16], expected [2, 1, 8, 8]"),
    "noise levels": (dict(sigma=torch.ones(3)), "sigma has 3 values for 2 pictures"),
    "no labels": (dict(class_labels=None), "class_labels=None; expected one-hot labels of width 3"),
    "width of labels": (dict(class_labels=torch.zeros(2, 5)), "class_labels has shape [2, 5], expected [2, 3]"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_inputs_are_named(case):
    change, message = BAD_INPUTS[case]
    inputs = {"x": torch.zeros(2, 1, 8, 8), "sigma": torch.ones(2), "class_labels": torch.eye(3)[:2], **change}
    with pytest.raises(ValueError, match=re.escape(message)):
        build_network("tiny", label_dim=3)(**inputs)


def test_labels_for_an_unconditional_network_are_refused():
    with pytest.raises(ValueError, match="expected None"):
        build_network("tiny")(torch.zeros(1, 1, 8, 8), torch.ones(1), torch.ones(1, 10))
