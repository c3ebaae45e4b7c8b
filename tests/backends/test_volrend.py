"""Compositing of packed samples against a loop over rays, closed forms and numeric derivatives."""

import math

import pytest
import torch

from backends.volrend import (
    accumulate_along_rays,
    exclusive_sum,
    pack_info,
    render_transmittance_from_density,
    render_visibility_from_density,
    render_weight_from_density,
)

# rays 1, 4 and 6 have no samples: in the middle and at the end
COUNTS = [3, 0, 1, 5, 0, 2, 0]


def packed(dtype=torch.float64):
    ray_indices = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))
    t_starts = torch.rand(len(ray_indices), dtype=dtype)
    t_ends = t_starts + torch.rand(len(ray_indices), dtype=dtype)
    sigmas = 3 * torch.rand(len(ray_indices), dtype=dtype)
    return t_starts, t_ends, sigmas, ray_indices


def test_weights_equal_a_loop_over_rays_and_samples():
    t_starts, t_ends, sigmas, ray_indices = packed()
    values = torch.rand(len(sigmas), 4, dtype=torch.float64)
    expected, expected_sums = [], torch.zeros(len(COUNTS), 4, dtype=torch.float64)
    for ray in range(len(COUNTS)):
        light = 1.0
        for i in (ray_indices == ray).nonzero()[:, 0].tolist():
            alpha = 1 - math.exp(-sigmas[i].item() * (t_ends[i] - t_starts[i]).item())
            expected.append((light * alpha, light, alpha))
            expected_sums[ray] += light * alpha * values[i]
            light *= 1 - alpha
    results = render_weight_from_density(t_starts, t_ends, sigmas, ray_indices=ray_indices, n_rays=len(COUNTS))
    torch.testing.assert_close(torch.stack(results, -1), torch.tensor(expected, dtype=torch.float64))
    sums = accumulate_along_rays(results[0], values, ray_indices, len(COUNTS))
    torch.testing.assert_close(sums, expected_sums)
    opacity = accumulate_along_rays(results[0], None, ray_indices, len(COUNTS))
    torch.testing.assert_close(opacity[0, 0], sum(w for w, _, _ in expected[:3]) + opacity.new_zeros(()))


def test_gradients_against_numeric_derivatives():
    t_starts, t_ends, sigmas, ray_indices = packed()
    values = torch.rand(len(sigmas), 2, dtype=torch.float64, requires_grad=True)

    def composite(sigmas, t_ends, values):
        weights, *_ = render_weight_from_density(t_starts, t_ends, sigmas, ray_indices, len(COUNTS))
        return accumulate_along_rays(weights, values, ray_indices, len(COUNTS))

    assert torch.autograd.gradcheck(composite, (sigmas.requires_grad_(), t_ends.requires_grad_(), values))


@pytest.mark.parametrize("samples", [1, 7, 64])
def test_homogeneous_slab_is_exact_for_any_number_of_samples(samples):
    # α of the parts multiply to the α of the whole, so opacity does not depend on how the slab is cut
    edges = torch.linspace(0.5, 2.0, samples + 1, dtype=torch.float64)
    index = torch.zeros(samples, dtype=torch.long)
    weights, transmittance, _ = render_weight_from_density(
        edges[:-1], edges[1:], torch.full((samples,), 1.7, dtype=torch.float64), index, 1
    )
    assert weights.sum().item() == pytest.approx(1 - math.exp(-1.7 * 1.5), abs=1e-12)
    torch.testing.assert_close(transmittance, torch.exp(-1.7 * (edges[:-1] - 0.5)))


def test_no_samples_give_zeros_and_finite_gradients():
    empty = torch.zeros(0, requires_grad=True)
    index = torch.zeros(0, dtype=torch.long)
    weights, *_ = render_weight_from_density(empty, empty, empty, index, 5)
    image = accumulate_along_rays(weights, torch.zeros(0, 3), index, 5)
    assert image.shape == (5, 3) and (image == 0).all()
    assert pack_info(index, 5).tolist() == [[0, 0]] * 5


def test_late_rays_keep_their_precision_in_float32():
    # the running sum reaches 5e4; in float32 its differences would be off by up to 4e-3
    rays, samples = 1000, 100
    index = torch.arange(rays).repeat_interleave(samples)
    values = torch.rand(rays * samples)
    grouped = values.view(rays, samples).double()
    expected = (grouped.cumsum(-1) - grouped).reshape(-1)
    assert (exclusive_sum(values, index, rays).double() - expected).abs().max() < 1e-5


def test_visibility_drops_hidden_and_empty_samples():
    index = torch.tensor([0, 0, 0, 1])
    t_starts = torch.tensor([0.0, 1, 2, 0])
    sigmas = torch.tensor([0.001, 20.0, 5.0, 5.0])  # nearly empty, opaque, hidden behind it; alone on its ray
    seen = render_visibility_from_density(
        t_starts, t_starts + 1, sigmas, index, 2, early_stop_eps=1e-4, alpha_thre=0.01
    )
    assert seen.tolist() == [False, True, False, True]
    transmittance, _ = render_transmittance_from_density(t_starts, t_starts + 1, sigmas, index, 2)
    assert transmittance[2].item() == pytest.approx(math.exp(-20.001), rel=1e-4)
