"""Fréchet distance, precision and recall, class report against closed forms, scipy and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from uni_instruct_guidance.distill2d.metrics import (
    Moments,
    class_report,
    frechet_distance,
    half_split_floor,
    inception_score,
    precision_recall,
)


def random_moments(features: int, seed: int, rank: int | None = None) -> Moments:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(features, rank or 2 * features, generator=generator, dtype=torch.float64)
    return Moments(torch.randn(features, generator=generator, dtype=torch.float64), factor @ factor.T, 100)


def test_frechet_distance_of_diagonal_gaussians_is_closed_form():
    """Commuting covariances: Σ (μ_a − μ_b)² + (s_a − s_b)²."""
    a = Moments(torch.tensor([0.0, 1.0]).double(), torch.diag(torch.tensor([4.0, 9.0]).double()), 1)
    b = Moments(torch.tensor([3.0, 1.0]).double(), torch.diag(torch.tensor([1.0, 0.25]).double()), 1)
    assert frechet_distance(a, b) == pytest.approx(9 + 1 + 2.5**2, rel=1e-12)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("rank", [None, 12])
def test_frechet_distance_against_scipy_sqrtm(rank):
    """The textbook form with the root of the product; full rank, and 30 features of rank 12 as from few samples."""
    a, b = random_moments(30, 1, rank), random_moments(30, 2, rank)
    product = a.covariance.numpy() @ b.covariance.numpy()
    cross = np.trace(scipy.linalg.sqrtm(product + (0 if rank is None else 1e-12 * np.eye(30)))).real
    expected = float((a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross)
    # Singular products lose half their digits in scipy's root.
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9 if rank is None else 1e-5)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_moments_are_numpys_and_refuse_what_is_not_finite():
    features = torch.randn(40, 5)
    moments = Moments.of(features)
    np.testing.assert_allclose(moments.covariance, np.cov(features.double().numpy(), rowvar=False), rtol=1e-12)
    np.testing.assert_allclose(moments.mean, features.double().mean(0), rtol=1e-12)
    features[3, 1] = torch.inf
    with pytest.raises(ValueError, match="1 of 40 samples"):
        Moments.of(features)
    with pytest.raises(ValueError, match=r"\[1, 5\]"):
        Moments.of(torch.zeros(1, 5))


def test_one_feature():
    a, b = Moments.of(torch.tensor([[0.0], [2.0]])), Moments.of(torch.tensor([[1.0], [1.0]]))
    assert frechet_distance(a, b) == pytest.approx(2.0)


def test_floor_shrinks_with_the_number_of_samples():
    """Bias of the Fréchet distance is of order features / samples: ten times the samples, about a tenth."""
    features = torch.randn(4000, 8)
    few, many = half_split_floor(features[:400]), half_split_floor(features)
    assert 5 < few / many < 20


def loop_precision(generated, real, k):
    """One sample, one ball at a time."""
    inside = 0
    for x in generated:
        hits = False
        for i, centre in enumerate(real):
            others = sorted(math.dist(centre, other) for j, other in enumerate(real) if j != i)
            hits = hits or math.dist(x, centre) <= others[k - 1]
        inside += hits
    return inside / len(generated)


def test_precision_and_recall_against_loops():
    real = torch.randn(25, 3)
    generated = 0.6 * torch.randn(25, 3) + torch.tensor([0.8, 0, 0])
    precision, recall = precision_recall(generated, real, neighbours=2)
    # The library stores shares as float32.
    assert precision == pytest.approx(loop_precision(generated.tolist(), real.tolist(), 2), abs=1e-6)
    assert recall == pytest.approx(loop_precision(real.tolist(), generated.tolist(), 2), abs=1e-6)
    assert precision != pytest.approx(recall)


def test_precision_falls_with_outliers_and_recall_with_lost_modes():
    real = torch.cat([torch.randn(100, 2), torch.randn(100, 2) + 30])[torch.randperm(200)]
    one_mode = torch.randn(200, 2)
    precision, recall = precision_recall(one_mode, real)
    assert precision > 0.9 and 0.4 < recall < 0.6
    precision, recall = precision_recall(torch.cat([real[:100], torch.full((100, 2), 200.0).cumsum(0)]), real)
    assert precision == pytest.approx(0.5)


def test_precision_needs_more_samples_than_neighbours():
    with pytest.raises(ValueError, match="neighbours=3"):
        precision_recall(torch.zeros(3, 2), torch.zeros(9, 2))


def test_inception_score_of_sure_and_unsure_classifiers():
    """Sure of ten equal classes: 10; the same answer always: 1."""
    sure = 100 * torch.eye(10).repeat(100, 1)
    assert inception_score(sure, splits=1)[0] == pytest.approx(10)
    assert inception_score(torch.zeros(50, 10))[0] == pytest.approx(1)
    with pytest.raises(ValueError, match="splits=10"):
        inception_score(torch.zeros(4, 10))


def test_class_report():
    requested = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    logits = torch.eye(4)[torch.tensor([0, 0, 1, 1, 2, 2, 2, 2])]
    report = class_report(logits, requested)
    assert report.coverage == 0.75 and report.accuracy == 0.75
    assert report.effective == pytest.approx(math.exp(-(0.25 * math.log(0.25) * 2 + 0.5 * math.log(0.5))))
    assert class_report(logits).accuracy is None


def test_a_class_below_thirty_percent_of_its_share_is_not_covered():
    read = torch.tensor([0] * 93 + [1] * 7)
    assert class_report(torch.eye(4)[read]).coverage == 0.25  # 7 % < 0.3 · 25 %
    read = torch.tensor([0] * 92 + [1] * 8)
    assert class_report(torch.eye(4)[read]).coverage == 0.5
