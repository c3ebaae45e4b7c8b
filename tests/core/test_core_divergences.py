"""Every row against autodiff of its own f, limits in float32, and refusals."""

import math

import pytest
import torch

from uni_instruct_guidance.core import DIVERGENCES, divergence_from_callable, get_divergence

FORMULAS = {  # f(r) written as in the table, independently of the rows' log forms
    "fkl": lambda r: r * r.log(),
    "rkl": lambda r: -r.log(),
    "jkl": lambda r: (r - 1) * r.log(),
    "chi2": lambda r: (r - 1) ** 2,
    "js": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    "hellinger": lambda r: (r.sqrt() - 1) ** 2,
}
LOG_R = torch.linspace(-5, 5, 41, dtype=torch.float64)


def test_every_row_has_a_formula():
    assert set(FORMULAS) == set(DIVERGENCES)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_rows_agree_with_autodiff(name):
    row, auto = get_divergence(name), divergence_from_callable(FORMULAS[name])
    # Fourth derivatives by autodiff in float64 lose about 1e-16 · e^(2·5) ≈ 1e-12 to cancellation (js).
    for curve in ("f_log", "h", "rh_prime", "c2"):
        torch.testing.assert_close(getattr(row, curve)(LOG_R), getattr(auto, curve)(LOG_R), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(row.c1(LOG_R), auto.c1(LOG_R), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(row.f(LOG_R.exp()), FORMULAS[name](LOG_R.exp()), rtol=1e-9, atol=1e-12)


def test_printed_table():
    """C1 of Eq. 3.4 and of Table 5 at r = 2, by hand."""
    log_two = torch.tensor([math.log(2.0)], dtype=torch.float64)
    expected = {"fkl": (-2, -2), "rkl": (-2, -1), "jkl": (-4, -3), "chi2": (0, 0), "js": (-10 / 9, -10 / 9)}
    for name, (equation, table) in expected.items():
        row = get_divergence(name)
        assert row.c1(log_two).item() == pytest.approx(equation, abs=1e-12)
        assert row.c1(log_two, table5=True).item() == pytest.approx(table, abs=1e-12)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_finite_in_float32(name):
    row, log_r = get_divergence(name), torch.linspace(-30, 30, 121)
    for curve in (row.h, row.rh_prime, row.c2, row.c1):
        assert torch.isfinite(curve(log_r)).all()
    assert (row.h(log_r) >= 0).all()


def test_callables_stay_finite():
    auto = divergence_from_callable(FORMULAS["js"])
    for curve in (auto.h, auto.rh_prime, auto.c2):
        assert torch.isfinite(curve(torch.linspace(-30, 30, 121))).all()


def test_long_names_and_constant_h():
    assert get_divergence("reverse_kl") is get_divergence("rkl")
    assert get_divergence("squared_hellinger") is get_divergence("hellinger")
    assert [name for name, row in DIVERGENCES.items() if row.constant_h] == ["rkl"]


@pytest.mark.parametrize(
    ("f", "reason"),
    [
        (lambda r: r * r.log() + 1, "f\\(1\\) must be 0"),
        (lambda r: -((r - 1) ** 2), "convex"),
        (lambda r: (r - 1).abs(), "piecewise linear"),
        (lambda r: (r * r.log()).sum(), "elementwise"),
        (lambda r: (r - 1) ** 2 * (2 - r).sqrt(), "convex and finite"),
    ],
)
def test_refuses_what_is_no_divergence(f, reason):
    with pytest.raises(ValueError, match=reason):
        divergence_from_callable(f)


def test_unknown_name_lists_choices():
    with pytest.raises(ValueError, match=r"divergence='total'.*fkl, rkl, jkl, chi2, js, hellinger"):
        get_divergence("total")
