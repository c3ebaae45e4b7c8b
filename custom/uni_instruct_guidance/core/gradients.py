"""The forms of the gradient as rows of one table: which terms a form has, and what multiplies each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .by_parts import LevelRates
from .divergences import Divergence


@dataclass(frozen=True)
class FormInputs:
    """What a form may look at: the divergence, log_r [B] (cut), whether C1 is Table 5's, and the rates by parts."""

    divergence: Divergence
    log_r: Tensor
    table5_c1: bool
    rates: LevelRates | None


@dataclass(frozen=True)
class Coefficients:
    """What multiplies each term, [B] each; None leaves the term out.

    Attributes:
        path, sim, cubic, cross: of the terms in objective.py's head.
        direct: name ↦ factor of SG(δ)ᵀ x_0.
    """

    path: Tensor | None = None
    sim: Tensor | None = None
    cubic: Tensor | None = None
    cross: Tensor | None = None
    direct: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class GradientForm:
    """One way to write the gradient.

    Attributes:
        coefficients: what it multiplies its terms with.
        log_r_clamp: where |log r| is cut unless a configuration says otherwise.
        uses_ratio: whether r enters for a divergence whose h is not constant.
        uses_jacobian: whether the networks' own derivatives can enter.
        needs_calibration: whether its terms cancel only where ∇log r = s_q − s_p.
        needs_marginal_score: whether s_p must be the student's own score, so that the conditional one will not do.
        needs_rates: whether it reads how weighting and sampler change with λ.
        distances: rows of the objective's distances under which it means anything; None: all.
    """

    coefficients: Callable[[FormInputs], Coefficients]
    log_r_clamp: float
    uses_ratio: bool = True
    uses_jacobian: bool = True
    needs_calibration: bool = False
    needs_marginal_score: bool = True
    needs_rates: bool = False
    distances: tuple[str, ...] | None = None


def _exact(given: FormInputs) -> Coefficients:
    h, rh_prime = given.divergence.h(given.log_r), given.divergence.rh_prime(given.log_r)
    return Coefficients(path=h - rh_prime, sim=h, cubic=given.divergence.c2(given.log_r), cross=rh_prime)


def _paper(given: FormInputs) -> Coefficients:
    """Eq. 3.5-3.6: C1 Δᵀ(s_p − s_c), where d'(Δ) = 2Δ carries the 2, and C2‖Δ‖²Δᵀx_t."""
    h, rh_prime = given.divergence.h(given.log_r), given.divergence.rh_prime(given.log_r)
    c1 = given.divergence.c1(given.log_r, table5=given.table5_c1)
    return Coefficients(path=h - rh_prime, sim=-c1 / 2, cubic=given.divergence.c2(given.log_r))


def _by_parts(given: FormInputs) -> Coefficients:
    h = given.divergence.h(given.log_r)
    return Coefficients(direct={name: rate * h for name, rate in given.rates.terms().items()})


def _di(given: FormInputs) -> Coefficients:
    return Coefficients(direct={"di": torch.ones_like(given.log_r)})


def _di_weighted(given: FormInputs) -> Coefficients:
    return Coefficients(direct={"di": given.divergence.h(given.log_r)})


# Exact and printed form need h, r h' and C2 to fall as fast as ‖Δ‖³ grows: a ratio that is cut early stops them
# (docs/method.md, section 3). The direct forms have nothing to balance and are the safer for an early cut.
GRADIENTS: dict[str, GradientForm] = {
    "exact": GradientForm(_exact, log_r_clamp=30.0, needs_calibration=True),
    "paper": GradientForm(_paper, log_r_clamp=30.0, needs_calibration=True),
    "by_parts": GradientForm(_by_parts, log_r_clamp=10.0, uses_jacobian=False, needs_rates=True, distances=("l2",)),
    "di": GradientForm(_di, log_r_clamp=10.0, uses_ratio=False, uses_jacobian=False, needs_marginal_score=False),
    "di_weighted": GradientForm(_di_weighted, log_r_clamp=10.0, uses_jacobian=False, needs_marginal_score=False),
}
