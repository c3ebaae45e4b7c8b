"""The student's own score: trained by denoising score matching, plain or guided; or the teacher's on a reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .errors import choose, require_shape

# λ(α, σ) [B] on the squared error of x̂0; EDM's needs the data's spread.
DENOISING_WEIGHTS: dict[str, Callable[..., Tensor]] = {
    "epsilon": lambda alpha, sigma, **_: (alpha / sigma).square(),
    "x0": lambda alpha, sigma, **_: torch.ones_like(alpha),
    "v_prediction": lambda alpha, sigma, **_: (alpha / sigma).square() + 1,
    "edm": lambda alpha, sigma, sigma_data, **_: (sigma / alpha).square().reciprocal() + sigma_data**-2,
    "min_snr": lambda alpha, sigma, max_snr, **_: (alpha / sigma).square().clamp(max=max_snr),
}


def denoising_loss(
    x0_fake: Tensor,
    x0: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    weighting: str = "epsilon",
    sigma_data: float = 0.5,
    max_snr: float = 5.0,
) -> Tensor:
    """λ(α, σ) · mean‖x̂0_p(x_t) − x_0‖² [B], minimised by the student's posterior mean, hence by its score.

    Args:
        x0_fake: [B, ...] prediction, with `classifier_free(c, u, fake_train)` applied for long-short guidance.
        x0: [B, ...] the student's clean samples (detached here).
        alpha, sigma: [B].
        weighting: row of `DENOISING_WEIGHTS`; `epsilon` is the usual ε-MSE, `edm` uses sigma_data, `min_snr` max_snr.
    """
    require_shape("x0_fake", x0_fake, x0.shape)
    require_shape("alpha", alpha, x0.shape[:1])
    require_shape("sigma", sigma, x0.shape[:1])
    weight = choose("fake_score.weighting", weighting, DENOISING_WEIGHTS)
    error = (x0_fake.float() - x0.detach().float()).square().flatten(1).mean(1)
    return weight(alpha, sigma, sigma_data=sigma_data, max_snr=max_snr) * error


def reference_score(x0: Tensor, reference: Tensor, x0_reference: Tensor) -> Tensor:
    """x̂0_p of delta denoising: the teacher's answer to the reference, seen from the edited sample.

    Both were diffused with the same ε to the same t, so that x_t − ref_t = α(x_0 − ref), and the reference's
    ε̂_ref = (ref_t − α x̂0_ref)/σ taken at x_t is x̂0_p = (x_t − σ ε̂_ref)/α = x_0 + x̂0_ref − ref. Then ε̂_q − ε̂_p is
    the difference of the two noise predictions (Hertz et al. 2023, arXiv 2304.07090, Eq. 3).

    Args:
        x0: [B, ...] the sample being edited (detached here). reference: [B, ...] the one that stays.
        x0_reference: [B, ...] the teacher's x̂0 at the diffused reference under the reference's prompt, guided as the
            other one is.
    """
    require_shape("reference", reference, x0.shape)
    require_shape("x0_reference", x0_reference, x0.shape)
    return x0.detach() + (x0_reference - reference)
