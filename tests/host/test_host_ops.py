"""Tensor operations and activations against the reference's values."""

from __future__ import annotations

import pytest
import torch
from contract_values import CONTRACT, close, numbers

from threestudio.utils import ops

OPS = CONTRACT["ops"]


def scale(value):
    """Range of the contract: None, a pair, or a box as a tensor."""
    return torch.tensor(value) if value and isinstance(value[0], list) else value


@pytest.mark.parametrize("row", CONTRACT["activations"]["cases"], ids=lambda r: f"{r['name']}-{len(r['x'])}")
def test_activation_value_and_gradient(row):
    x = numbers(row["x"]).requires_grad_()
    y = ops.get_activation(row["name"])(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    close(y, row["y"])
    # at exactly 1 the clamp of lin2srgb decides by the last bit whether a gradient passes
    regular = (x != 1.0) if row["name"] == "lin2srgb" else torch.ones_like(x, dtype=torch.bool)
    close(grad[regular], numbers(row["grad"])[regular])


@pytest.mark.parametrize("row", CONTRACT["activations"]["errors"], ids=lambda r: r["name"])
def test_unknown_activation(row):
    with pytest.raises(ValueError, match="unknown activation"):
        ops.get_activation(row["name"])


def test_truncated_exp_computes_in_float32():
    x = torch.tensor([11.5], dtype=torch.float16)  # exp(11.5) is beyond float16
    assert ops.trunc_exp(x).isfinite().all()


@pytest.mark.parametrize("row", OPS["contract_to_unisphere"], ids=lambda r: f"{r['bbox'][0]}-{r['unbounded']}")
def test_contraction(row):
    close(ops.contract_to_unisphere(numbers(row["x"]), numbers(row["bbox"]), row["unbounded"]), row["out"])


def test_contraction_has_finite_gradients_at_the_centre():
    x = torch.zeros(1, 3, requires_grad=True)
    ops.contract_to_unisphere(x, torch.tensor([[-1.0] * 3, [1.0] * 3]), unbounded=True).sum().backward()
    close(x.grad, [[0.25, 0.25, 0.25]])


@pytest.mark.parametrize("row", OPS["scale_tensor"], ids=lambda r: f"{r['inp_scale']}-{r['tgt_scale']}")
def test_scale_tensor(row):
    close(ops.scale_tensor(numbers(row["dat"]), scale(row["inp_scale"]), scale(row["tgt_scale"])), row["out"])


def test_dot_and_reflect():
    close(ops.dot(numbers(OPS["dot"]["x"]), numbers(OPS["dot"]["y"])), OPS["dot"]["out"])
    close(ops.reflect(numbers(OPS["reflect"]["x"]), numbers(OPS["reflect"]["n"])), OPS["reflect"]["out"])


def test_binary_cross_entropy():
    row = OPS["binary_cross_entropy"]
    close(ops.binary_cross_entropy(numbers(row["input"]), numbers(row["target"])), row["out"])
    ends = [ops.binary_cross_entropy(torch.tensor([p]), torch.tensor([t])) for p, t in ((0.0, 1.0), (1.0, 1.0))]
    close(torch.stack(ends), row["at_zero_one"])


def test_perpendicular_component():
    row = OPS["perpendicular_component"]
    x, y = numbers(row["x"]), numbers(row["y"])
    out = ops.perpendicular_component(x, y)
    close(out, row["out"])
    close((out * y).sum((1, 2, 3)), torch.zeros(2))
    close(ops.perpendicular_component(x, torch.zeros_like(y)), row["y_zero"])


@pytest.mark.parametrize("name", ["shifted_expotional_decay", "shifted_cosine_decay"])
def test_decay_curves(name):
    row = OPS[name]
    close(getattr(ops, name)(*row["abc"], numbers(row["r"])), row["out"])


def test_tet_sdf_diff():
    row = OPS["tet_sdf_diff"]
    close(ops.tet_sdf_diff(numbers(row["vert_sdf"]), torch.tensor(row["tet_edges"])), row["out"])


def test_specify_gradient():
    row = OPS["SpecifyGradient"]
    x = numbers(row["input"]).requires_grad_()
    out = ops.SpecifyGradient.apply(x, numbers(row["gt_grad"]))
    close(out, row["out"])
    (2 * out).sum().backward()
    close(x.grad, row["grad_when_scaled_by_2"])


def test_empty_rays():
    row = OPS["validate_empty_rays"]
    empty = torch.zeros(0)
    out = ops.validate_empty_rays(empty.long(), empty, empty)
    assert [o.tolist() for o in out] == [row["ray_indices"], row["t_start"], row["t_end"]]
    assert str(out[1].dtype) == row["t_dtype"]
    full = (torch.tensor([0]), torch.tensor([0.5]), torch.tensor([0.6]))
    assert ops.validate_empty_rays(*full) == full


def test_chunk_batch():
    row = OPS["chunk_batch"]
    calls = []

    def func(a, b, c):
        calls.append([len(a), len(b), c])
        return {"u": a + b[:, 0], "v": None}

    a = torch.arange(row["n"], dtype=torch.float32)
    out = ops.chunk_batch(func, row["chunk"], a, c=5, b=a[:, None])
    assert calls == row["calls"]
    close(out["u"], row["out"]["u"])
    assert out["v"] is row["out"]["v"]


def test_chunk_batch_keeps_the_kind_of_result():
    x = torch.rand(5, 3)
    assert type(ops.chunk_batch(lambda t: (t, t), 2, x)).__name__ == OPS["chunk_batch"]["tuple_type"]
    assert type(ops.chunk_batch(lambda t: t, 2, x)).__name__ == OPS["chunk_batch"]["tensor_type"]
    assert list(ops.chunk_batch(lambda t: t, 2, x[:0]).shape) == OPS["chunk_batch"]["empty_batch_shape"]
    with pytest.raises(AssertionError):
        ops.chunk_batch(lambda n: n, 2, 7)
    with pytest.raises(TypeError):
        ops.chunk_batch(lambda t: "text", 2, x)


def test_chunk_batch_lets_none_through_without_gradients():
    # The reference fails here (AttributeError); None is as valid in evaluation as in training.
    with torch.no_grad():
        assert ops.chunk_batch(lambda t: (t, None), 2, torch.rand(5, 3))[1] is None
