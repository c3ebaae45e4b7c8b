"""A few letters that change whenever weights do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LENGTH = 24


def of_settings(settings: Any) -> str:
    """Of anything that JSON can write."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=list).encode()).hexdigest()[:LENGTH]


def of_tensors(tensors: Mapping[str, Tensor], settings: Any = None) -> str:
    """Of named tensors, bit by bit, and of settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=list).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:LENGTH]


def of_files(files: Iterable[Path], base: Path) -> str:
    """Of the content of files and of their names below `base`; read once per process while size and time stay."""
    entries = {str(file.relative_to(base)): _content(str(file), *_stamp(file)) for file in files}
    return of_settings(entries)


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=256)
def _content(file: str, size: int, time: int) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _read(stream)


def _read(stream) -> str:
    """Python 3.10 has no file_digest; gigabytes are read in pieces."""
    digest = hashlib.sha256()
    while block := stream.read(1 << 24):
        digest.update(block)
    return digest.hexdigest()
