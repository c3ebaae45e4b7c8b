"""Texture sampling against torch's grid_sample, closed forms and finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from backends import raster as dr


def _random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("filter_mode", ["linear", "nearest"])
@pytest.mark.parametrize("boundary, padding", [("clamp", "border"), ("zero", "zeros")])
@pytest.mark.parametrize("shared", [True, False])
def test_equals_grid_sample(filter_mode, boundary, padding, shared):
    tex, uv = _random(1 if shared else 2, 5, 8, 3), _random(2, 6, 7, 2, seed=1) * 1.4 - 0.2
    mode = {"linear": "bilinear", "nearest": "nearest"}[filter_mode]
    expected = F.grid_sample(
        tex.expand(2, -1, -1, -1).permute(0, 3, 1, 2), uv * 2 - 1, mode, padding, align_corners=False
    )
    ours = dr.texture(tex, uv, filter_mode=filter_mode, boundary_mode=boundary)
    torch.testing.assert_close(ours, expected.permute(0, 2, 3, 1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("filter_mode", ["linear", "nearest"])
def test_wrap_is_periodic(filter_mode):
    tex, uv = _random(1, 4, 8, 2), _random(1, 5, 5, 2, seed=1)
    here, there = (dr.texture(tex, uv + shift, filter_mode=filter_mode) for shift in (0, torch.tensor([2.0, -3.0])))
    torch.testing.assert_close(here, there, atol=1e-12, rtol=0)
    # Across the seam the first and last texel mix.
    edge = dr.texture(tex, torch.tensor([[[[0.0, 0.125]]]]).double(), filter_mode="linear")
    torch.testing.assert_close(edge[0, 0, 0], (tex[0, 0, 0] + tex[0, 0, -1]) / 2, atol=1e-12, rtol=0)


def test_pyramid_averages_and_stops_at_odd_sides():
    tex = _random(2, 4, 12, 3)
    levels = dr.texture_construct_mip(tex)
    assert [t.shape[1:3] for t in levels] == [(2, 6), (1, 3)]
    torch.testing.assert_close(levels[0][0, 1, 2], tex[0, 2:4, 4:6].mean((0, 1)))
    assert len(dr.texture_construct_mip(tex, max_mip_level=1)) == 1
    assert [t.shape[1:3] for t in dr.texture_construct_mip(_random(1, 1, 4, 1))] == [(1, 2), (1, 1)]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_footprint_selects_the_level(level):
    """A pixel that spans 2^k texels along its longer side reads level k, whichever way it is turned."""
    tex, uv = _random(1, 8, 16, 2), _random(1, 3, 3, 2, seed=1)
    angle, texels = torch.tensor(0.7, dtype=torch.float64), 2.0**level
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    jacobian = turn @ torch.diag(torch.tensor([texels, 0.3 * texels]).double()) @ turn.T
    uv_da = (jacobian / torch.tensor([[16.0], [8.0]])).reshape(4).expand(1, 3, 3, 4)
    pyramid = [tex, *dr.texture_construct_mip(tex)]
    expected = dr.texture(pyramid[level], uv, filter_mode="linear")
    for mode in ("auto", "linear-mipmap-nearest"):
        torch.testing.assert_close(dr.texture(tex, uv, uv_da, filter_mode=mode), expected, atol=1e-9, rtol=0)
    bias = torch.full((1, 3, 3), 0.25).double()
    both = [dr.texture(pyramid[min(k, 3)], uv, filter_mode="linear") for k in (level, level + 1)]
    torch.testing.assert_close(dr.texture(tex, uv, uv_da, bias), torch.lerp(*both, 0.25), atol=1e-9, rtol=0)
    torch.testing.assert_close(
        dr.texture(tex, uv, mip_level_bias=bias + level, mip=pyramid[1:]), torch.lerp(*both, 0.25), atol=1e-9, rtol=0
    )


def test_levels_are_clamped():
    tex, uv = _random(1, 4, 4, 1), _random(1, 2, 2, 2, seed=1)
    far = dr.texture(tex, uv, mip_level_bias=torch.full((1, 2, 2), 9.0))
    torch.testing.assert_close(far, tex.mean().expand_as(far), atol=1e-12, rtol=0)
    near = dr.texture(tex, uv, torch.zeros(1, 2, 2, 4).double())
    torch.testing.assert_close(near, dr.texture(tex, uv), atol=1e-12, rtol=0)
    capped = dr.texture(tex, uv, mip_level_bias=torch.full((1, 2, 2), 9.0), max_mip_level=1)
    torch.testing.assert_close(capped, dr.texture(dr.texture_construct_mip(tex)[0], uv), atol=1e-12, rtol=0)


def test_gradients():
    tex, uv = _random(2, 4, 8, 2).requires_grad_(), (_random(2, 3, 3, 2, seed=1) * 1.6 - 0.3).requires_grad_()
    for boundary in ("wrap", "clamp", "zero"):
        assert gradcheck(lambda t, c, b=boundary: dr.texture(t, c, boundary_mode=b), (tex, uv))
    uv_da = ((_random(2, 3, 3, 4, seed=2) - 0.5) * 0.6).requires_grad_()
    bias = (_random(2, 3, 3, seed=3) * 0.1).requires_grad_()
    assert gradcheck(dr.texture, (tex, uv, uv_da, bias))


def test_arguments_are_checked():
    tex, uv = _random(1, 4, 4, 1), _random(2, 2, 2, 2)
    with pytest.raises(ValueError, match="filter_mode is 'cubic', must be one of auto, nearest"):
        dr.texture(tex, uv, filter_mode="cubic")
    with pytest.raises(ValueError, match="boundary_mode is 'cube', must be one of wrap, clamp, zero"):
        dr.texture(tex, uv, boundary_mode="cube")
    with pytest.raises(ValueError, match="needs uv_da or mip_level_bias"):
        dr.texture(tex, uv, filter_mode="linear-mipmap-linear")
    with pytest.raises(ValueError, match=r"tex must be \[1, H, W, C\] or \[2, H, W, C\]"):
        dr.texture(tex.expand(3, -1, -1, -1), uv)
