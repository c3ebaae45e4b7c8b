"""Measurements: every row's adjoint and pseudo-inverse, gradients by the adjoint, operators of one's own."""

from types import SimpleNamespace

import pytest
import torch

from uni_instruct_guidance.core.operators import (
    OPERATORS,
    OPTIONS,
    Operator,
    adjoint_gap,
    conjugate_gradients,
    make_operator,
    own_operator,
)

SHAPE = (3, 16, 24)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_tables_agree():
    assert list(OPERATORS) == list(OPTIONS)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("shape", [SHAPE, (1, 8, 8)])
def test_adjoint(name, shape):
    """⟨Ax, y⟩ = ⟨x, Aᵀy⟩; float32 sums of a thousand terms are off by 1e-6 of their size."""
    operator = make_operator(name, shape, drawn())
    assert adjoint_gap(operator, shape, drawn(1)) < 1e-5
    wrong = Operator(name, operator.forward, lambda y: 1.1 * operator.adjoint(y))
    assert adjoint_gap(wrong, shape, drawn(1)) > 1e-3


@pytest.mark.parametrize("name", OPERATORS)
def test_pseudo_inverse(name):
    """A A⁺ A = A where the inverse is exact; a blur's leaves out what is below its cut."""
    operator = make_operator(name, SHAPE, drawn())
    y = operator.forward(torch.randn((2, *SHAPE), generator=drawn(2)))
    again = operator.forward(operator.pseudo_inverse(y))
    torch.testing.assert_close(again, y, atol=0.06 if name == "deblur" else 1e-5, rtol=0)


@pytest.mark.parametrize("name", ["inpaint", "super-resolution", "compressive"])
def test_conjugate_gradients_find_the_pseudo_inverse(name):
    operator = make_operator(name, SHAPE, drawn())
    y = operator.forward(torch.randn((2, *SHAPE), generator=drawn(2)))
    torch.testing.assert_close(conjugate_gradients(operator, y), operator.pseudo_inverse(y), atol=1e-4, rtol=0)


def test_what_the_rows_do():
    x = torch.randn((1, *SHAPE), generator=drawn())
    kept = make_operator("inpaint", SHAPE, drawn(), missing=0.7).forward(torch.ones_like(x))
    assert kept.mean() == pytest.approx(0.3, abs=0.002)
    small = make_operator("super-resolution", SHAPE, drawn(), factor=4).forward(x)
    torch.testing.assert_close(small[0, 0, 0, 0], x[0, 0, :4, :4].mean())
    flat = torch.full_like(x, 0.4)
    torch.testing.assert_close(make_operator("deblur", SHAPE, drawn(), blur=3.0).forward(flat), flat)
    assert make_operator("compressive", SHAPE, drawn(), share=0.25).forward(x).shape == (1, 3, 96)
    mask = torch.zeros(SHAPE[1:])
    mask[:4] = 1
    torch.testing.assert_close(
        make_operator("inpaint", SHAPE, drawn(), mask=mask).forward(x)[..., :4, :], x[..., :4, :]
    )


def test_gradients_come_from_the_adjoint():
    """So a forward map of NumPy's is welcome."""
    matrix = torch.randn(5, 12, generator=drawn())

    def forward(x):
        return torch.from_numpy(x.detach().flatten(1).numpy() @ matrix.numpy().T)

    operator = Operator("mine", forward, lambda y: (y @ matrix).reshape(-1, 3, 2, 2))
    x = torch.randn(2, 3, 2, 2, generator=drawn(1)).requires_grad_()
    (grad,) = torch.autograd.grad(operator(x).square().sum(), x)
    torch.testing.assert_close(grad, (2 * (x.flatten(1) @ matrix.T) @ matrix).reshape_as(x).detach())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("blur", {}, "task='blur' is not known; choose one of inpaint, super-resolution, deblur"),
        ("inpaint", {"missing": 1.0}, "missing=1.0 must be above 0 and below 1"),
        ("inpaint", {"factor": 2}, "task 'inpaint' has no option 'factor'; choose one of missing, mask"),
        ("super-resolution", {"factor": 5}, "factor=5 does not divide the picture's 16 × 24 pixels"),
        ("denoise", {"share": 0.5}, "has no option 'share'"),
    ],
)
def test_refusals(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_operator(name, SHAPE, drawn(), **options)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (SimpleNamespace(forward=lambda x: x), "has no adjoint; both must be functions"),
        (object(), "has no forward and no adjoint"),
        (SimpleNamespace(forward=lambda x: x, adjoint=lambda y: 2 * y), "its adjoint is none"),
        (SimpleNamespace(forward=lambda x: x[:, 7], adjoint=lambda y: y), r"fails on pictures \[1, 3, 16, 24\]: Index"),
    ],
)
def test_operators_of_ones_own_are_tried_out(made, message):
    with pytest.raises(ValueError, match=message) as caught:
        own_operator("mine.py:op", made, SHAPE, drawn())
    assert "\n" not in str(caught.value)


def test_an_operator_of_ones_own():
    made = SimpleNamespace(forward=lambda x: x[..., ::2], adjoint=lambda y: torch.zeros(len(y), *SHAPE).index_copy(
        3, torch.arange(0, SHAPE[2], 2), y))  # fmt: skip
    operator = own_operator("mine.py:every_other_column", made, SHAPE, drawn())
    y = torch.randn(1, 3, 16, 12, generator=drawn())
    torch.testing.assert_close(operator.forward(operator.pseudo_inverse(y)), y)
