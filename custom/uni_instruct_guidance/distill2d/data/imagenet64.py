"""Downsampled ImageNet 64 × 64 as npz batches (data [N, 12288] uint8 in CHW order, labels 1 … 1000)."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .base import ImageData

SIZE = 64


def stored_array(path: Path, member: str) -> np.ndarray:
    """An array of an npz: mapped from the file where it is stored without compression, else read into memory.

    Mapped arrays are shared by all processes of a machine. Objects are never unpickled.
    """
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{member}.npy")
        if info.compress_type == zipfile.ZIP_STORED:
            with archive.open(info) as file:
                version = np.lib.format.read_magic(file)
                header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, fortran, dtype = header[version](file)
                offset = file.tell()
            if not fortran and not dtype.hasobject:
                return np.memmap(path, dtype, "r", _member_start(path, info) + offset, shape)
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[member]


def _member_start(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the data of a zip member begins: the local header's own name and extra field may differ in length."""
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return info.header_offset + 30 + name + extra


class NpzBatches(ImageData):
    """Several npz batches as one data set, mapped where possible."""

    def __init__(self, name: str, paths: Sequence[Path]):
        self.name, self.shape = name, (3, SIZE, SIZE)
        self._batches, labels = [], []
        for path in paths:
            try:
                images, classes = stored_array(path, "data"), np.asarray(stored_array(path, "labels"))
            except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError) as error:
                raise ValueError(f"data.path: {path} is no batch of ImageNet-64: {error}") from error
            if images.dtype != np.uint8 or images.shape != (len(classes), 3 * SIZE * SIZE):
                found, wanted = f"{images.dtype} {list(images.shape)}", f"uint8 [N, {3 * SIZE * SIZE}]"
                raise ValueError(f"data.path: {path} holds {found}, expected {wanted}")
            if classes.min() < 1:
                raise ValueError(f"data.path: {path} has class {classes.min()}; the labels are 1 to 1000")
            self._batches.append(images)
            labels.append(torch.as_tensor(classes.astype(np.int64)) - 1)
        self._ends = np.cumsum([len(batch) for batch in self._batches])
        self._set_labels(torch.cat(labels))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def images(self, indices: Sequence[int]) -> Tensor:
        which = np.searchsorted(self._ends, indices, side="right")
        rows = [self._batches[b][i - (self._ends[b - 1] if b else 0)] for b, i in zip(which, indices)]
        return torch.from_numpy(np.stack(rows)).reshape(-1, *self.shape)


def load_imagenet64(cfg) -> NpzBatches:
    """The npz files below `cfg.path` whose names begin with `train`."""
    paths = sorted(Path(cfg.path).rglob("train*.npz"))
    if not paths:
        raise ValueError(f"data.path={cfg.path!r} holds no train*.npz of downsampled ImageNet 64x64")
    return NpzBatches("ImageNet-64", paths)
