"""What every data set is to the trainers: images of one shape, labels or none, read in batches of indices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset


class ImageData(Dataset, ABC):
    """Images [C, H, W] with class labels.

    Attributes:
        name: for messages.
        shape: (C, H, W).
        labels: [N] class indices, or None where there are none.
        num_classes: 0 where there are no labels.
        captions: [N] in words, of data that bring them along.
    """

    name: str
    shape: tuple[int, int, int]
    labels: Int[Tensor, "N"] | None = None
    num_classes: int = 0
    captions: Sequence[str] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def images(self, indices: Sequence[int]) -> Tensor:
        """[n, C, H, W], uint8 or float32 in [-1, 1]."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return tuple(part[0] for part in self.__getitems__([index]))

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images [n, C, H, W] and labels [n] (zeros where there are none)."""
        labels = torch.zeros(len(indices), dtype=torch.long)
        if self.labels is not None:
            labels = self.labels[torch.as_tensor(indices)]
        return self.images(indices), labels

    def class_frequencies(self) -> Float[Tensor, "K"] | None:
        """How often each class occurs, summing to 1; None without labels."""
        if self.labels is None:
            return None
        counts = torch.bincount(self.labels, minlength=self.num_classes).float()
        return counts / counts.sum()

    def _set_labels(self, labels: Tensor | None) -> None:
        """Keep labels 0 … K − 1; K is the greatest plus one."""
        self.labels = None if labels is None else labels.long()
        self.num_classes = 0 if labels is None else int(labels.max()) + 1


class ArrayData(ImageData):
    """Images held in memory or in a memory map: [N, C, H, W], uint8 or float32 in [-1, 1], tensor or numpy array."""

    def __init__(self, name: str, images, labels: Tensor | None):
        self.name, self._images, self.shape = name, images, tuple(images.shape[1:])
        self._set_labels(labels)

    def __len__(self) -> int:
        return len(self._images)

    def images(self, indices: Sequence[int]) -> Tensor:
        if isinstance(self._images, Tensor):
            return self._images[torch.as_tensor(indices)]
        return torch.from_numpy(self._images[list(indices)])


def to_unit_range(images: Tensor) -> Float[Tensor, "B C H W"]:
    """uint8 0 … 255 to float32 −1 … 1 (EDM's x / 127.5 − 1); float images pass."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images
