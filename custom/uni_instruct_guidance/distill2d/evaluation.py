"""Assess generated images against a data set: one judge embeds both, one report compares them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import choose
from ..teachers.edm import EDMPrecond
from ..teachers.sampling import sample_batches
from .data import ImageData, to_unit_range
from .digit_classifier import load_classifier
from .inception import inception_features, load_inception
from .metrics import ClassReport, Moments, class_report, frechet_distance, half_split_floor, precision_recall
from .metrics import inception_score as score_of_logits


@dataclass(frozen=True)
class Judge:
    """How images become features.

    Attributes:
        name: of the judge.
        embed: images [n, C, H, W] in [-1, 1] -> {space: features [n, F]}, and class "logits" [n, K] beside them.
        main: the space of precision and recall.
        knows_classes: whether the logits are over the data set's own classes.
    """

    name: str
    embed: Callable[[Tensor], dict[str, Tensor]]
    main: str
    knows_classes: bool


def digits_judge(path: str | Path, device: torch.device | str = "cpu") -> Judge:
    """Pixels and the features of the digit classifier stored in `path`."""
    classifier = load_classifier(path).to(device)

    @torch.no_grad()
    def embed(images: Tensor) -> dict[str, Tensor]:
        features = classifier.features(images.to(device))
        logits = classifier.head(features)
        return {"pixel": images.flatten(1).cpu(), "classifier": features.cpu(), "logits": logits.cpu()}

    return Judge("digits", embed, main="classifier", knows_classes=True)


def inception_judge(path: str | Path | None, device: torch.device | str = "cpu") -> Judge:
    """Inception's pool features: the Fréchet distance in them is FID."""
    extractor = load_inception(path, device)

    def embed(images: Tensor) -> dict[str, Tensor]:
        features, logits = inception_features(extractor, images)
        return {"inception": features, "logits": logits}

    return Judge("inception", embed, main="inception", knows_classes=False)


JUDGES: dict[str, Callable[..., Judge]] = {"digits": digits_judge, "inception": inception_judge}


# The judge of a data set, by the data set's name; every other one has Inception.
JUDGE_OF_DATA = {"digits": "digits"}


def judge_for(data_name: str) -> str:
    """Name of the judge that fits a data set."""
    return JUDGE_OF_DATA.get(data_name, "inception")


def load_judge(name: str, path: str | Path | None, device: torch.device | str = "cpu") -> Judge:
    """A judge of `JUDGES` with its weights from `path`."""
    return choose("judge", name, JUDGES)(path, device)


@dataclass(frozen=True)
class Quality:
    """How one generator compares with the data.

    Attributes:
        samples, real: numbers of images behind the figures.
        frechet: {space: Fréchet distance to all real images}.
        precision, recall: in the judge's main space, at equal numbers of real and generated images.
        classes: coverage, balance and obedience, where the judge knows the classes.
        inception_score: mean over ten splits, where the judge is Inception.
    """

    samples: int
    real: int
    frechet: dict[str, float]
    precision: float
    recall: float
    classes: ClassReport | None
    inception_score: float | None

    def row(self) -> dict[str, float | int]:
        """Flat figures: `fd_<space>`, precision, recall, coverage, effective_classes, accuracy, inception_score."""
        figures = {"samples": self.samples, **{f"fd_{space}": value for space, value in self.frechet.items()}}
        figures |= {"precision": self.precision, "recall": self.recall, "inception_score": self.inception_score}
        if self.classes is not None:
            figures |= {"coverage": self.classes.coverage, "effective_classes": self.classes.effective,
                        "accuracy": self.classes.accuracy}  # fmt: skip
        return {name: value for name, value in figures.items() if value is not None}


def embed_all(judge: Judge, batches: Iterable[Tensor]) -> dict[str, Float[Tensor, "N F"]]:
    """Features of all batches in every space; images are clamped to [-1, 1], as a picture file would."""
    parts: dict[str, list[Tensor]] = {}
    for images in batches:
        for space, features in judge.embed(images.float().clamp(-1, 1)).items():
            parts.setdefault(space, []).append(features)
    return {space: torch.cat(features) for space, features in parts.items()}


class Reference:
    """The real side: moments of all images in every space, features of up to `kept` of them.

    Args:
        data: real images.
        judge: embeds them, once.
        kept: images whose features stay in memory for precision and recall, evenly spread over the data.
    """

    def __init__(self, data: ImageData, judge: Judge, *, kept: int = 10_000, batch: int = 250):
        self.judge, self.count = judge, len(data)
        starts = range(0, self.count, batch)
        embedded = embed_all(judge, (to_unit_range(data.images(range(s, min(s + batch, self.count)))) for s in starts))
        self.spaces = [space for space in embedded if space != "logits"]
        self.moments = {space: Moments.of(embedded[space]) for space in self.spaces}
        # A permutation, since files are often sorted by class and precision_recall takes the first ones.
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(0))[:kept]
        self.features = embedded[judge.main][order]
        self.floor = {space: half_split_floor(embedded[space]) for space in self.spaces}

    def use_moments(self, path: str | Path) -> None:
        """Take the main space's mean and covariance from an .npz with `mu` and `sigma`, as EDM publishes them.

        Raises:
            ValueError: no such file, other contents, or another number of features.
        """
        size = len(self.moments[self.judge.main].mean)
        try:
            with np.load(path, allow_pickle=False) as stored:
                mean, covariance = (torch.as_tensor(stored[key], dtype=torch.float64) for key in ("mu", "sigma"))
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"reference moments {str(path)!r} have no plain mu and sigma: {error}") from error
        if tuple(covariance.shape) != (size, size) or tuple(mean.shape) != (size,):
            raise ValueError(f"reference moments {str(path)!r} have {list(mean.shape)} features, expected [{size}]")
        self.moments[self.judge.main] = Moments(mean, covariance, self.count)

    def assess(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> Quality:
        """Compare generated (images [n, C, H, W], requested classes [n] or None) with the data."""
        requested: list[Tensor] = []

        def images() -> Iterable[Tensor]:
            for batch, labels in batches:
                if labels is not None:
                    requested.append(labels)
                yield batch

        embedded = embed_all(self.judge, images())
        judge, logits = self.judge, embedded["logits"]
        order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(0))
        precision, recall = precision_recall(embedded[judge.main][order], self.features)
        return Quality(
            samples=len(logits),
            real=self.count,
            frechet={s: frechet_distance(Moments.of(embedded[s]), self.moments[s]) for s in self.spaces},
            precision=precision,
            recall=recall,
            classes=class_report(logits, torch.cat(requested) if requested else None) if judge.knows_classes else None,
            inception_score=None if judge.knows_classes else score_of_logits(logits)[0],
        )


def assess_generator(
    draw: Callable[[Tensor, Tensor | None], Tensor],
    network: EDMPrecond,
    reference: Reference,
    *,
    count: int,
    batch: int = 250,
    seed: int = 0,
    shown: int = 100,
    progress: Callable[[int], object] | None = None,
) -> tuple[Quality, Float[Tensor, "shown C H W"]]:
    """Draw `count` samples, classes in turn, and compare them with the data; also the first samples, to look at.

    Args:
        draw: (unit noise, one-hot labels or None) -> samples, from `network`: `partial(HeunSampler(), network)` or
            `partial(one_step, network, init_sigma=…)`.
        seed: of the noise; generators that are compared take the same.
        progress: called with the number of samples of each batch.
    """
    shape = (network.img_channels, network.img_resolution, network.img_resolution)
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    first: list[Tensor] = []

    def batches():
        drawn = sample_batches(
            draw, count, shape, batch=batch, generator=generator, classes=network.label_dim, device=device
        )
        for images, labels in drawn:
            if sum(map(len, first)) < shown:
                first.append(images)
            if progress is not None:
                progress(len(images))
            yield images, labels

    quality = reference.assess(batches())
    return quality, torch.cat(first)[:shown]


def ratios(student: Quality, teacher: Quality) -> dict[str, float]:
    """Fréchet distance of the student over the teacher's, per space: below 1 the student is closer to the data."""
    if student.samples != teacher.samples:
        raise ValueError(
            f"Fréchet distances of {student.samples} and {teacher.samples} samples do not compare: their bias differs"
        )
    return {space: value / teacher.frechet[space] for space, value in student.frechet.items()}
