"""How close generated images are to real ones, in feature spaces: Fréchet distance, precision and recall, coverage.

The Fréchet distance of finite samples is biased upwards, roughly by (features / samples): figures compare only at
equal numbers of samples, so every report states them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean [F] and covariance [F, F] of features, float64 on the CPU, and the number they were taken from."""

    mean: Float[Tensor, "F"]
    covariance: Float[Tensor, "F F"]
    count: int

    @classmethod
    def of(cls, features: Float[Tensor, "N F"]) -> Moments:
        """Of N ≥ 2 finite features."""
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"features have the shape {list(features.shape)}; [N, F] with N at least 2 is needed")
        features = features.detach().cpu().double()
        if not features.isfinite().all():
            bad = int((~features.isfinite().all(1)).sum())
            raise ValueError(f"{bad} of {len(features)} samples have features that are not finite")
        return cls(features.mean(0), features.T.cov().reshape(features.shape[1], -1), len(features))


def frechet_distance(a: Moments, b: Moments) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a^½ Σ_b Σ_a^½)^½): Wasserstein-2 between Gaussians, squared.

    Both roots are of symmetric matrices, by eigenvalues in float64; those below 0 by rounding count as 0.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return float(distance.clamp_min(0))


def half_split_floor(features: Float[Tensor, "N F"], repeats: int = 5, seed: int = 0) -> float:
    """Mean Fréchet distance between two random halves of the same data: what sampling alone causes."""
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for _ in range(repeats):
        order = torch.randperm(len(features), generator=generator)
        halves = order.chunk(2)
        distances.append(frechet_distance(*(Moments.of(features[half]) for half in halves)))
    return sum(distances) / repeats


def precision_recall(
    generated: Float[Tensor, "N F"], real: Float[Tensor, "M F"], neighbours: int = 3
) -> tuple[float, float]:
    """Share of generated samples inside the real manifold, and of real ones inside the generated (Kynkäänniemi 2019).

    A manifold is the union of balls around its samples up to their k-th neighbour. Both use the same number of
    samples, the smaller one: the manifold of a larger sample is another one.
    """
    from torch_fidelity.metric_prc import prc_features_to_metric

    count = min(len(generated), len(real))
    if count <= neighbours:
        raise ValueError(f"neighbours={neighbours} needs more samples than {count}")
    figures = prc_features_to_metric(
        generated[:count].cpu().float(), real[:count].cpu().float(), prc_neighborhood=neighbours, verbose=False
    )
    return figures["precision"], figures["recall"]


def inception_score(logits: Float[Tensor, "N K"], splits: int = 10) -> tuple[float, float]:
    """exp E KL(p(y | x) ‖ p(y)), mean and deviation over splits (Salimans et al. 2016)."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    if len(logits) < splits:
        raise ValueError(f"splits={splits} needs at least as many samples, got {len(logits)}")
    figures = isc_features_to_metric(logits.cpu(), splits)
    return figures["inception_score_mean"], figures["inception_score_std"]


@dataclass(frozen=True)
class ClassReport:
    """What a classifier reads in generated images.

    Attributes:
        coverage: share of the classes that hold at least 30 % of their fair share.
        effective: exp(entropy) of the classes; equals their number if all are equally frequent.
        accuracy: share of images read as the class that was asked for; None if none was.
    """

    coverage: float
    effective: float
    accuracy: float | None


def class_report(logits: Float[Tensor, "N K"], requested: Int[Tensor, "N"] | None = None) -> ClassReport:
    """Coverage, balance and obedience of generated images from a classifier's logits."""
    read, classes = logits.argmax(1), logits.shape[1]
    share = torch.bincount(read, minlength=classes).double() / len(read)
    entropy = -torch.special.xlogy(share, share).sum()
    accuracy = None if requested is None else float((read == requested.to(read.device)).double().mean())
    return ClassReport(float((share >= 0.3 / classes).double().mean()), float(entropy.exp()), accuracy)
