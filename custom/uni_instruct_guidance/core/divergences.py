"""f-divergences D_f(q‖p) = E_p[f(r)], r = q/p, as rows of one table.

Every row gives what the gradient needs as functions of log r:

    h(r)   = r² f''(r)                            weight inside Theorem 3.1
    r h'(r)                                       its logarithmic derivative
    C1(r)  = r³ f'''(r)            = r h' − 2h    Eq. 3.4
    C2(r)  = 2r² f'' + 4r³ f''' + r⁴ f'''' = r² h''

All are finite in float32 for |log r| ≤ 30.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .errors import choose

Curve = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Divergence:
    """One convex f with f(1) = 0.

    Attributes:
        name: short name used in configs (the paper's where it has one).
        title: name in words.
        f_log: log r ↦ f(r).
        h: log r ↦ r² f''(r), never negative.
        rh_prime: log r ↦ r h'(r).
        c2: log r ↦ r² h''(r), C2 of Eq. 3.4.
        printed_c1: log r ↦ the C1 that Table 5 prints, where it is not Eq. 3.4's.
        constant_h: h does not depend on r, so no density ratio is needed.
        source: the callable of r that a user gave.
    """

    name: str
    title: str
    f_log: Curve
    h: Curve
    rh_prime: Curve
    c2: Curve
    printed_c1: Curve | None = None
    constant_h: bool = False
    source: Curve | None = None

    def __reduce__(self):
        """Pickled by name or by its callable, so that methods travel between processes."""
        if self.source is None:
            return get_divergence, (self.name,)
        return divergence_from_callable, (self.source, self.name)

    def f(self, r: Tensor) -> Tensor:
        """f(r) for r > 0."""
        return self.f_log(r.log())

    def c1(self, log_r: Tensor, table5: bool = False) -> Tensor:
        """C1 = r³ f''' of Eq. 3.4, or as Table 5 prints it (`table5`)."""
        if table5 and self.printed_c1 is not None:
            return self.printed_c1(log_r)
        return self.rh_prime(log_r) - 2 * self.h(log_r)


def _zero(log_r: Tensor) -> Tensor:
    return torch.zeros_like(log_r)


def _one(log_r: Tensor) -> Tensor:
    return torch.ones_like(log_r)


def _js_f(log_r: Tensor) -> Tensor:
    """r log r − (r+1) log((r+1)/2), written so that r log r cancels before it can grow."""
    log_half = torch.log(torch.tensor(2.0, dtype=log_r.dtype))
    return -log_r.exp() * (softplus(-log_r) - log_half) - (softplus(log_r) - log_half)


def _exp(power: float, factor: float) -> Curve:
    """factor · r^power."""
    return lambda log_r: factor * torch.exp(power * log_r)


# fmt: off
_ROWS = (
    Divergence("fkl", "forward KL", f_log=lambda l: l.exp() * l,
               h=torch.exp, rh_prime=torch.exp, c2=_zero),
    Divergence("rkl", "reverse KL", f_log=lambda l: -l,
               h=_one, rh_prime=_zero, c2=_zero, printed_c1=lambda l: -_one(l), constant_h=True),
    Divergence("jkl", "Jeffreys KL", f_log=lambda l: torch.expm1(l) * l,
               h=lambda l: l.exp() + 1, rh_prime=torch.exp, c2=_zero, printed_c1=lambda l: -l.exp() - 1),
    Divergence("chi2", "Pearson χ²", f_log=lambda l: torch.expm1(l).square(),
               h=_exp(2, 2), rh_prime=_exp(2, 4), c2=_exp(2, 4)),
    Divergence("js", "Jensen-Shannon", f_log=_js_f,
               h=torch.sigmoid, rh_prime=lambda l: l.sigmoid() * (-l).sigmoid(),
               c2=lambda l: -2 * l.sigmoid().square() * (-l).sigmoid()),
    Divergence("hellinger", "squared Hellinger", f_log=lambda l: torch.expm1(l / 2).square(),
               h=_exp(0.5, 0.5), rh_prime=_exp(0.5, 0.25), c2=_exp(0.5, -0.125)),
)
# fmt: on

DIVERGENCES: dict[str, Divergence] = {row.name: row for row in _ROWS}

_LONG_NAMES = {
    "forward_kl": "fkl",
    "reverse_kl": "rkl",
    "jeffreys_kl": "jkl",
    "chi_square": "chi2",
    "jensen_shannon": "js",
    "squared_hellinger": "hellinger",
}


def get_divergence(divergence: str | Divergence | Curve) -> Divergence:
    """A row by its short or long name, a ready row, or any convex f given as a callable of r.

    Raises:
        ValueError: unknown name (the choices are listed) or a callable that is no divergence.
    """
    if isinstance(divergence, Divergence):
        return divergence
    if callable(divergence):
        return divergence_from_callable(divergence)
    return choose("divergence", _LONG_NAMES.get(divergence, divergence), DIVERGENCES)


def divergence_from_callable(f: Curve, name: str | None = None) -> Divergence:
    """A divergence from an elementwise convex f(r), its four derivatives by autodiff in float64.

    Args:
        f: maps r > 0 [...] to f(r) [...] with torch operations, four times differentiable.
        name: how tables and messages call it; default the function's own name.
    Raises:
        ValueError: f(1) ≠ 0, f'' < 0 or not finite somewhere on a grid |log r| ≤ 6, f piecewise linear
            (then h = 0 and nothing can be learned), or f not elementwise.
    """
    name = name or getattr(f, "__name__", "custom")
    if not callable(f):
        raise ValueError(f"divergence {name!r}: f must be a callable of r, got {type(f).__name__}")

    def scaled_derivatives(log_r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """r²f'', r³f''', r⁴f''''."""
        with torch.enable_grad():
            # Beyond e^±30 float64 autodiff of a general f is rounding noise: hold the last value.
            r = log_r.detach().double().clamp(-30, 30).exp().requires_grad_()
            value, powers = f(r), []
            for order in range(1, 5):
                value = _derivative(value, r)
                powers.append(value.detach() * r.detach() ** order)
        return tuple(power.to(log_r.dtype) for power in powers[1:])

    def h(log_r: Tensor) -> Tensor:
        return scaled_derivatives(log_r)[0]

    def rh_prime(log_r: Tensor) -> Tensor:
        second, third, _ = scaled_derivatives(log_r)
        return 2 * second + third

    def c2(log_r: Tensor) -> Tensor:
        second, third, fourth = scaled_derivatives(log_r)
        return 2 * second + 4 * third + fourth

    _check_convex(f, h, name)
    return Divergence(name, name, f_log=lambda l: f(l.exp()), h=h, rh_prime=rh_prime, c2=c2, source=f)


def _derivative(value: Tensor, r: Tensor) -> Tensor:
    """dvalue/dr elementwise; zero where the graph ended (a polynomial's last derivative)."""
    if not value.requires_grad:
        return torch.zeros_like(r)
    (slope,) = torch.autograd.grad(value.sum(), r, create_graph=True, allow_unused=True)
    return torch.zeros_like(r) if slope is None else slope


def _check_convex(f: Curve, h: Curve, name: str) -> None:
    log_r = torch.linspace(-6, 6, 241, dtype=torch.float64)
    value = f(log_r.exp())
    if not isinstance(value, Tensor) or value.shape != log_r.shape:
        raise ValueError(f"divergence {name!r}: f must be elementwise, [N] to [N]")
    at_one = float(f(torch.ones(1, dtype=torch.float64)))
    if not abs(at_one) < 1e-8:
        raise ValueError(f"divergence {name!r}: f(1) must be 0, got {at_one:.6g}")
    curvature = h(log_r)
    bad = ~torch.isfinite(value) | ~torch.isfinite(curvature) | (curvature < -1e-9)
    if bad.any():
        where = float(log_r[bad][0].exp())
        raise ValueError(f"divergence {name!r}: f must be convex and finite, but r²f'' = "
                         f"{float(curvature[bad][0]):.6g} at r = {where:.6g}")  # fmt: skip
    if not (curvature > 1e-12).any():
        raise ValueError(f"divergence {name!r}: f is piecewise linear (f'' = 0 on the whole grid), so h = 0")
