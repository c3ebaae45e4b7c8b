"""How much each noise level and sample counts.

With frozen networks every method of the family sends (x̂0_p − x̂0_q) into x_0; a weighting says how large. For reverse
KL the gradient in x_0 is exactly ω·(ε̂_q − ε̂_p), so ω is DreamFusion's w(t):

| row           | ω                       | factor on x̂0_p − x̂0_q | where it comes from                              |
|---------------|-------------------------|-----------------------|--------------------------------------------------|
| theory        | (α/σ) / p(λ)            | SNR / p(λ)            | ½g² dt of Theorem 3.1 over the sampler's density |
| uniform       | α/σ                     | SNR                   | unit weight on (s_p − s_q)ᵀ ∂x_t                 |
| sigma2        | σ²                      | α σ                   | DreamFusion, ProlificDreamer                     |
| fantasia3d    | α σ²                    | α² σ                  | Fantasia3D                                       |
| epsilon       | 1                       | α/σ                   | unit weight on ε̂_q − ε̂_p                         |
| x0            | σ/α                     | 1                     | unit weight on x̂0_p − x̂0_q                       |
| x0_normalised | (σ/α) / mean|x0 − x̂0_q| | 1 / mean|x0 − x̂0_q|   | DMD, SiD                                         |

`uniform` is `theory` up to a constant when noise levels are drawn uniformly in λ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class WeightingInputs:
    """What a weighting may look at: alpha, sigma, log_snr_density [B]; x0, x0_teacher [B, ...] (detached)."""

    alpha: Tensor
    sigma: Tensor
    x0: Tensor
    x0_teacher: Tensor
    log_snr_density: Tensor | None

    @property
    def snr(self) -> Tensor:
        """α²/σ² [B]."""
        return (self.alpha / self.sigma).square()


def _theory(inputs: WeightingInputs) -> Tensor:
    if inputs.log_snr_density is None:
        raise ValueError("weighting='theory' needs log_snr_density, the density with which the noise level was drawn")
    return inputs.snr / inputs.log_snr_density


def _x0_normalised(inputs: WeightingInputs) -> Tensor:
    distance = (inputs.x0 - inputs.x0_teacher).abs().flatten(1).mean(1)
    return 1 / distance.clamp_min(1e-5)


# Each row gives the factor [B] on x̂0_p − x̂0_q (third column above).
WEIGHTINGS: dict[str, Callable[[WeightingInputs], Tensor]] = {
    "theory": _theory,
    "uniform": lambda inputs: inputs.snr,
    "sigma2": lambda inputs: inputs.alpha * inputs.sigma,
    "fantasia3d": lambda inputs: inputs.alpha.square() * inputs.sigma,
    "epsilon": lambda inputs: inputs.alpha / inputs.sigma,
    "x0": lambda inputs: inputs.alpha.new_ones(inputs.alpha.shape),
    "x0_normalised": _x0_normalised,
}
