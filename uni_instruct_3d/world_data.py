"""The procedural world as a data set of the one-step trainers: `data.name: shapes`, drawn on the fly, never repeated.

Importing this module adds the row to the trainers' table; the scripts of the trainers do so.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from uni_instruct_guidance.core.errors import choose, require_known
from uni_instruct_guidance.core.ranges import check, whole
from uni_instruct_guidance.distill2d.data import DATASETS, DataConfig, DatasetRow, ImageData

from .shapes_world import CLASSES, caption_of, class_probabilities, sample_batch

#: Stream -> its place among the random keys of one seed: no item of one is ever an item of another.
STREAMS = {"train": 0, "reference": 1, "test": 2}
MOST_CAPTIONS = 100_000
RANGES = {"size": whole(least=8), "seed": whole(least=0), "count": whole(least=1)}


@dataclass(frozen=True)
class WorldOptions:
    """`data.options` of `data.name: shapes`.

    Args:
        stream: train | reference (what students and teachers are compared with) | test (fresh, for the floor beside).
        size: pixels of a side.
        conditional: whether the object's class comes along as a label.
        captions: colour renders alone, each with its caption, for text-to-image students; `count` is then at most
            100,000, because all captions are written down at the start.
        seed: of the world; each seed has its own three streams.
        count: images until the first one returns. Nothing is kept, so a training run should never see its end.
    """

    stream: str = "train"
    size: int = 32
    conditional: bool = True
    captions: bool = False
    seed: int = 0
    count: int = 2**21


class WorldImages(ImageData):
    """Image i of a stream is a function of (seed, stream, i, size) alone; uint8 [3, size, size]."""

    def __init__(self, options: WorldOptions):
        self.options, self.name = options, f"shapes ({options.stream})"
        self.shape = (3, options.size, options.size)
        self.num_classes = len(CLASSES) if options.conditional else 0
        self.key = _key(options)

    def __len__(self) -> int:
        return self.options.count

    def images(self, indices: Sequence[int]) -> Tensor:
        return self.__getitems__(indices)[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images and labels from one drawing; zeros for labels without classes."""
        drawn = [sample_batch(self.key, int(index), 1, self.options.size) for index in indices]
        images = np.concatenate([item["image"] for item in drawn]).transpose(0, 3, 1, 2)
        labels = torch.tensor([int(item["class_id"][0]) for item in drawn])
        return torch.from_numpy(np.ascontiguousarray(images)), labels if self.num_classes else torch.zeros_like(labels)

    def class_frequencies(self) -> Tensor | None:
        """Of the world itself: no image has to be drawn for it."""
        return torch.as_tensor(class_probabilities(), dtype=torch.float32) if self.num_classes else None


class CaptionedWorld(ImageData):
    """The first `count` colour renders of a stream with what the world says of them."""

    def __init__(self, options: WorldOptions):
        if options.count > MOST_CAPTIONS:
            raise ValueError(f"data.options.count={options.count} must be at most {MOST_CAPTIONS} with captions=true")
        self.options, self.name = options, f"shapes ({options.stream}, with captions)"
        self.shape, self.key = (3, options.size, options.size), _key(options)
        self.captions: list[str] = []
        self.places: list[int] = []
        for index in itertools.count():
            caption, kind = caption_of(self.key, index)
            if kind == 0:
                self.captions.append(caption)
                self.places.append(index)
            if len(self.places) == options.count:
                break

    def __len__(self) -> int:
        return self.options.count

    def images(self, indices: Sequence[int]) -> Tensor:
        drawn = [sample_batch(self.key, self.places[int(i)], 1, self.options.size)["image"] for i in indices]
        return torch.from_numpy(np.ascontiguousarray(np.concatenate(drawn).transpose(0, 3, 1, 2)))


def _key(options: WorldOptions) -> int:
    """Keys of different seeds and streams differ, so their items are independent draws."""
    return options.seed * len(STREAMS) + STREAMS[options.stream]


def load_world(cfg: DataConfig) -> WorldImages | CaptionedWorld:
    """`data: {name: shapes, options: {...}}`."""
    require_known("data.options", cfg.options, [field.name for field in dataclasses.fields(WorldOptions)])
    options = WorldOptions(**cfg.options)
    choose("data.options.stream", options.stream, STREAMS)
    for name in ("conditional", "captions"):
        if not isinstance(getattr(options, name), bool):
            raise ValueError(f"data.options.{name}={getattr(options, name)!r} must be true or false")
    check(RANGES, options, "data.options.")
    return CaptionedWorld(options) if options.captions else WorldImages(options)


DATASETS["shapes"] = DatasetRow(load_world, needs_path=False, takes_options=True)
