"""A folder or a zip of images: labels from class sub-folders or from EDM's dataset.json."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .base import ImageData

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# So many images, evenly spread, are opened before training; a zip up to the limit is checksummed as a whole.
CHECKED_IMAGES, CHECKED_BYTES = 256, 256 * 2**20
# What Pillow and zipfile raise over a file that is no picture, broken, or a decompression bomb.
UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
              zipfile.BadZipFile, NotImplementedError, RuntimeError, Image.DecompressionBombError)  # fmt: skip


class FolderFiles:
    """Files below a folder by their relative POSIX name."""

    def __init__(self, root: Path):
        self.root = root

    def names(self) -> list[str]:
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def check(self) -> None:
        """Nothing to do: every file is opened on its own."""


class ZipFiles:
    """Members of a zip; each process opens the file for itself."""

    def __init__(self, path: Path):
        self.path, self._open = path, None

    def _zip(self) -> zipfile.ZipFile:
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), zipfile.ZipFile(self.path))
        return self._open[1]

    def __getstate__(self):
        return {"path": self.path, "_open": None}

    def names(self) -> list[str]:
        return sorted(name for name in self._zip().namelist() if not name.endswith("/"))

    def read(self, name: str) -> bytes:
        return self._zip().read(name)

    def check(self) -> None:
        """Raise BadZipFile if a member's checksum is wrong (small archives only: it reads everything)."""
        if self.path.stat().st_size <= CHECKED_BYTES:
            broken = self._zip().testzip()
            if broken:
                raise zipfile.BadZipFile(f"checksum of {broken} is wrong")


class ImageFiles(ImageData):
    """Images of equal size from `FolderFiles` or `ZipFiles`, decoded when they are asked for.

    Raises:
        ValueError: no images, unequal sizes, an unreadable file, labels that do not fit.
    """

    def __init__(self, name: str, files: FolderFiles | ZipFiles):
        self.name, self.files = name, files
        names = files.names()
        self.file_names = [n for n in names if n.lower().endswith(EXTENSIONS)]
        if not self.file_names:
            raise ValueError(f"data.path: {name} holds no images ({', '.join(EXTENSIONS)})")
        files.check()
        self.shape = self._checked_shape()
        described = files.read("dataset.json") if "dataset.json" in names else None
        self._set_labels(self._labels_from_json(described) if described else self._labels_from_folders())

    def __len__(self) -> int:
        return len(self.file_names)

    def images(self, indices: Sequence[int]) -> Tensor:
        arrays = [self._pixels(self.file_names[i]) for i in indices]
        return torch.from_numpy(np.stack(arrays))

    def _open_image(self, name: str) -> Image.Image:
        try:
            image = Image.open(io.BytesIO(self.files.read(name)))
            image.load()
            return image
        except UNREADABLE as error:
            raise ValueError(f"data.path: {name} in {self.name} is no readable image: {error}") from error

    def _pixels(self, name: str) -> np.ndarray:
        image = self._open_image(name).convert("L" if self.shape[0] == 1 else "RGB")
        array = np.array(image, dtype=np.uint8)
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        if array.shape != self.shape:
            raise ValueError(
                f"data.path: {name} in {self.name} has {array.shape[2]}x{array.shape[1]} pixels, "
                f"the others {self.shape[2]}x{self.shape[1]}"
            )
        return array

    def _checked_shape(self) -> tuple[int, int, int]:
        """(C, H, W); grey only if every image that was looked at is grey."""
        stride = max(1, len(self.file_names) // CHECKED_IMAGES)
        seen: dict[tuple[int, int], str] = {}
        grey = True
        for name in self.file_names[::stride]:
            image = self._open_image(name)
            seen.setdefault(image.size, name)
            grey = grey and image.mode in ("L", "1")
        if len(seen) > 1:
            sizes = ", ".join(f"{w}x{h} ({name})" for (w, h), name in list(seen.items())[:3])
            raise ValueError(f"data.path: images in {self.name} must have one size, found {sizes}")
        width, height = next(iter(seen))
        return (1 if grey else 3, height, width)

    def _labels_from_json(self, described: bytes) -> Tensor | None:
        """EDM's {"labels": [[file name, class], ...]}; null or missing labels: none."""
        try:
            labels = json.loads(described).get("labels")
            table = None if labels is None else {name.replace("\\", "/"): int(label) for name, label in labels}
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f'dataset.json in {self.name} is not {{"labels": [[file, class], ...]}}: {error}'
            ) from error
        if table is None:
            return None
        missing = [name for name in self.file_names if name not in table]
        if missing:
            raise ValueError(
                f"dataset.json in {self.name} lacks the label of {missing[0]} ({len(missing)} such images)"
            )
        values = torch.tensor([table[name] for name in self.file_names])
        if values.min() < 0:
            raise ValueError(f"dataset.json in {self.name} has a negative class {int(values.min())}")
        return values

    def _labels_from_folders(self) -> Tensor | None:
        """The first folder of each name is its class, in alphabetical order; none if an image lies at the top."""
        tops = [PurePosixPath(name).parts for name in self.file_names]
        if any(len(parts) < 2 for parts in tops):
            return None
        classes = {folder: k for k, folder in enumerate(sorted({parts[0] for parts in tops}))}
        return torch.tensor([classes[parts[0]] for parts in tops])


def load_folder(cfg) -> ImageFiles:
    """Images below `cfg.path`."""
    root = Path(cfg.path)
    if not root.is_dir():
        raise ValueError(f"data.path={cfg.path!r} is no folder")
    return ImageFiles(str(cfg.path), FolderFiles(root))


def load_zip(cfg) -> ImageFiles:
    """Images in the zip `cfg.path`, EDM's format included."""
    path = Path(cfg.path)
    if not path.is_file():
        raise ValueError(f"data.path={cfg.path!r} is no file")
    try:
        return ImageFiles(str(cfg.path), ZipFiles(path))
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"data.path={cfg.path!r} is a corrupt zip: {error}") from error
