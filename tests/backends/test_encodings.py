"""Encodings and small networks: closed forms, orthonormality, errors; the CUDA libraries where they are."""

import math

import numpy as np
import pytest
import torch

from backends import select
from backends.encodings import BandFrequency, Encoding, band_mask
from backends.networks import Network


def test_spherical_harmonics_are_orthonormal():
    # Gauss-Legendre in cos θ times equal steps in φ integrates products of degree 6 exactly
    cosine, weight = np.polynomial.legendre.leggauss(8)
    phi = 2 * math.pi * torch.arange(16, dtype=torch.float64) / 16
    z = torch.tensor(cosine)[:, None].expand(8, 16)
    sine = (1 - z**2).sqrt()
    directions = torch.stack([sine * phi.cos(), sine * phi.sin(), z], -1).reshape(-1, 3)
    weights = (torch.tensor(weight)[:, None] * 2 * math.pi / 16).expand(8, 16).reshape(-1, 1)
    harmonics = Encoding(3, {"otype": "SphericalHarmonics", "degree": 4})((directions + 1) / 2)
    torch.testing.assert_close(harmonics.T @ (weights * harmonics), torch.eye(16, dtype=torch.float64))


def test_spherical_harmonics_signs_and_order():
    # the linear band is (-y, z, -x); the quadratic one xy, -yz, 3z²-1, -xz, x²-y², all up to positive factors
    direction = torch.tensor([[0.48, 0.6, 0.64]])
    x, y, z = direction[0]
    values = Encoding(3, {"otype": "SphericalHarmonics", "degree": 3})((direction + 1) / 2)[0]
    expected = torch.stack([1 + 0 * x, -y, z, -x, x * y, -y * z, 3 * z * z - 1, -x * z, x * x - y * y])
    assert (values / expected > 0).all()


def test_frequency_is_ordered_by_input_then_band():
    x = torch.tensor([[0.3, 0.7]])
    values = Encoding(2, {"otype": "Frequency", "n_frequencies": 2})(x)[0].tolist()
    expected = [f(2**k * math.pi * v) for v in (0.3, 0.7) for k in (0, 1) for f in (math.sin, math.cos)]
    assert values == pytest.approx(expected, abs=1e-6)


def test_bands_open_one_after_another():
    assert band_mask(4, 0.0).tolist() == [0] * 4
    assert band_mask(4, 0.375).tolist() == pytest.approx([1, 0.5, 0, 0], abs=1e-6)
    assert band_mask(4, 1.0).tolist() == [1] * 4
    waves = BandFrequency(3, 4)(torch.rand(5, 3), band_mask(4, 0.5))
    assert (waves[:, 12:] == 0).all() and (waves[:, 6:12] != 0).any()


def test_seed_fixes_the_parameters_and_leaves_the_global_generator_alone():
    config = {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 8}
    before = torch.get_rng_state()
    one, two = (Encoding(3, config, seed=5).params for _ in range(2))
    assert torch.equal(one, two) and torch.equal(before, torch.get_rng_state())


def test_network_without_hidden_layers_is_linear():
    network = Network(3, 2, {"otype": "CutlassMLP", "n_hidden_layers": 0})
    x = torch.rand(4, 3)
    torch.testing.assert_close(network(2 * x), 2 * network(x))
    assert sum(p.numel() for p in network.parameters()) == 6


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Encoding(3, {"otype": "Fourier"}), "encoding otype=Fourier; choices: Grid"),
        (lambda: Encoding(3, {"otype": "SphericalHarmonics", "degree": 9}), "degree=9; choices: 1 to 4"),
        (lambda: Network(3, 1, {"otype": "MLP"}), "network otype=MLP; choices: FullyFusedMLP, CutlassMLP"),
        (
            lambda: Network(3, 1, {"otype": "CutlassMLP", "activation": "Relu6"}),
            "activation=Relu6; choices: None, ReLU",
        ),
        (lambda: select.prefer("cuda"), "backends=cuda; choices: auto, torch"),
    ],
)
def test_mistakes_name_value_and_choices(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_torch_answers_without_cuda():
    assert select.describe(torch.device("cpu")) == {"volume rendering": "torch", "encodings and networks": "torch"}


@pytest.mark.skipif(
    select.missing_nerfacc() is not None, reason=f"nerfacc twin not compared: {select.missing_nerfacc()}"
)
def test_volume_rendering_agrees_with_nerfacc():
    device = torch.device("cuda")
    fast, twin = select.volume_rendering(device), select.TORCH_VOLUME_RENDERING
    assert fast.name == "nerfacc"
    origins = torch.nn.functional.normalize(torch.randn(500, 3, device=device), dim=-1) * 2.5
    directions = torch.nn.functional.normalize(0.3 * torch.randn_like(origins) - origins, dim=-1)
    occupied = torch.rand(32**3, device=device) < 0.2
    images = {}
    for backend in (fast, twin):
        grid = backend.OccGridEstimator(roi_aabb=[-1, -1, -1, 1, 1, 1], resolution=32, levels=1).to(device)
        grid.occs = occupied.float()
        grid.binaries = occupied.view_as(grid.binaries)
        index, t_starts, t_ends = grid.sampling(origins, directions, render_step_size=0.002)
        points = origins[index] + directions[index] * ((t_starts + t_ends) / 2)[:, None]
        density = (3 * points.abs().sum(-1)).requires_grad_()
        weights, *_ = backend.render_weight_from_density(t_starts, t_ends, density, ray_indices=index, n_rays=500)
        image = backend.accumulate_along_rays(weights, values=points, ray_indices=index, n_rays=500)
        image.square().sum().backward()
        per_ray = torch.zeros(500, device=device).index_add(0, index, density.grad)
        images[backend.name] = torch.cat([image, per_ray[:, None]], -1)
    # the two place their first step differently: a step of 0.002 at cell borders of 0.0625
    torch.testing.assert_close(images["nerfacc"], images["torch"], atol=0.05, rtol=0.05)


@pytest.mark.skipif(
    select.missing_tinycudann() is not None, reason=f"tinycudann twins not compared: {select.missing_tinycudann()}"
)
@pytest.mark.parametrize(
    "config",
    [
        {"otype": "HashGrid", "n_levels": 4, "log2_hashmap_size": 12, "base_resolution": 8, "per_level_scale": 1.6},
        {"otype": "Frequency", "n_frequencies": 4},
        {"otype": "SphericalHarmonics", "degree": 4},
    ],
)
def test_encodings_agree_with_tinycudann(config):
    device = torch.device("cuda")
    fast = select.encoding(3, config, device).to(device)
    twin = Encoding(3, config).to(device)
    if hasattr(twin, "params"):
        with torch.no_grad():
            fast.params.normal_()
            twin.params.copy_(fast.params)
    points = torch.rand(1000, 3, device=device)
    # tiny-cuda-nn computes in half precision
    torch.testing.assert_close(twin(points), fast(points).float(), atol=1e-2, rtol=1e-2)
