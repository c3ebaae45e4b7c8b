"""CIFAR-10 as it is distributed: the binary version, or the Python version without running its pickles."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import torch

from .base import ArrayData

BATCHES = [f"data_batch_{i}" for i in range(1, 6)]
IMAGE_BYTES = 3 * 32 * 32

# The only names that the Python version's pickles need: numpy's array, built from bytes.
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads plain values and numpy arrays; anything else in the pickle is refused by name."""

    def find_class(self, module: str, name: str):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}, which is not data")
        return super().find_class(module, name)


def _binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Records of one label byte and 3,072 bytes of a CHW image."""
    raw = np.fromfile(path, dtype=np.uint8)
    if not len(raw) or len(raw) % (1 + IMAGE_BYTES):
        raise ValueError(f"{path.name} has {len(raw)} bytes, no multiple of {1 + IMAGE_BYTES}: it is cut short")
    records = raw.reshape(-1, 1 + IMAGE_BYTES)
    return records[:, 1:], records[:, 0]


def _python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The dictionary {b"data": uint8 [N, 3072], b"labels": list} of one batch."""
    try:
        batch = ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        images, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"{path.name} is no CIFAR-10 batch: {error}") from error
    if images.dtype != np.uint8 or images.shape != (len(labels), IMAGE_BYTES):
        raise ValueError(f"{path.name} holds {images.dtype} {list(images.shape)}, expected uint8 [N, {IMAGE_BYTES}]")
    return images, labels


def load_cifar10(cfg) -> ArrayData:
    """The training images below `cfg.path`: data_batch_1 … 5, with .bin (binary version) or without (Python version).

    Raises:
        ValueError: a missing, cut or unexpected file.
    """
    root = Path(cfg.path)
    for suffix, read in ((".bin", _binary), ("", _python)):
        found = {name: next(iter(sorted(root.rglob(name + suffix))), None) for name in BATCHES}
        if not any(found.values()):
            continue
        missing = [name + suffix for name, path in found.items() if path is None]
        if missing:
            raise ValueError(f"data.path={cfg.path!r} lacks {', '.join(missing)} of CIFAR-10")
        images, labels = zip(*(read(path) for path in found.values()))
        images, labels = np.concatenate(images).reshape(-1, 3, 32, 32), np.concatenate(labels)
        if labels.max() > 9:
            raise ValueError(f"data.path={cfg.path!r}: class {labels.max()} in CIFAR-10, which has 0 to 9")
        return ArrayData("CIFAR-10", torch.from_numpy(images), torch.from_numpy(labels))
    raise ValueError(
        f"data.path={cfg.path!r} holds no CIFAR-10: expected data_batch_1.bin … data_batch_5.bin (binary version) or "
        "data_batch_1 … data_batch_5 (Python version), unpacked"
    )
