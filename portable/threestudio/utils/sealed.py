"""Checkpoint files that know their own content: one damaged byte is found before anything of the file is used.

A sealed file is what ``torch.save`` writes, with the SHA-256 of those bytes as the archive's comment. Zip readers and
``torch.load`` read it as before. Content and digest lie in one file, so no kill can part them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from threestudio.utils.errors import UserError
from threestudio.utils.files import atomic_path

#: An archive ends in the length of its comment (2 bytes) and the comment.
_MARK = b"sha256:"
_COMMENT = len(_MARK) + 2 * hashlib.sha256().digest_size
_SEAL = 2 + _COMMENT
#: End of an archive without a comment: this signature 22 bytes from the end, and a length of zero.
_END, _END_SIZE, _NO_COMMENT = b"PK\5\6", 22, b"\0\0"


class _Hashing:
    """A file that is hashed while it is written; remembers why writing failed, which torch does not tell."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.error = file, hashlib.sha256(), None

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def save_sealed(content: Any, path: str | os.PathLike, keep_as: str | None = None) -> None:
    """Write a checkpoint whole or not at all, flushed to the disk.

    Args:
        content: what ``torch.load(weights_only=True)`` can read back: tensors and plain values.
        keep_as: name that the file which is replaced gets, in the same folder.

    Raises:
        OSError: full disk, no permission; the file that was there is still whole.
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        with open(temporary, "w+b") as file:
            hashing = _Hashing(file)
            try:
                torch.save(content, hashing)
            except Exception:
                if hashing.error is not None:  # torch says only that "the write failed"
                    raise hashing.error from None
                raise
            _seal(file, hashing.digest)
            file.flush()
            os.fsync(file.fileno())
        if keep_as is not None and path.is_file():
            _second_name(path, path.with_name(keep_as))


def _seal(file: BinaryIO, digest: Any) -> None:
    end = file.seek(0, os.SEEK_END)
    file.seek(end - _END_SIZE)
    tail = file.read()
    assert tail.startswith(_END) and tail.endswith(_NO_COMMENT), "torch.save left no plain zip archive"
    file.seek(end - len(_NO_COMMENT))
    file.write(struct.pack("<H", _COMMENT) + _MARK + digest.hexdigest().encode())


def _second_name(path: Path, other: Path) -> None:
    """Let ``other`` name what ``path`` names; at no time is either missing or half-written."""
    with atomic_path(other) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)


def damage(path: str | os.PathLike) -> str | None:
    """What is wrong with a checkpoint's bytes; None where they are whole.

    Files without a seal (from upstream or elsewhere) are held to the check sums of their archive, where they are one.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _SEAL, 0))
            seal = file.read()
            if seal[2:].startswith(_MARK):
                file.seek(0)
                return None if _fits(file, size - _SEAL, seal) else "its content does not fit its check sum"
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except OSError as error:
        return error.strerror or str(error)
    except Exception as error:  # zipfile reports damage in half a dozen types
        return f"{type(error).__name__}: {error}"
    return None if bad is None else f"the check sum of its entry {bad} is wrong"


def _fits(file: BinaryIO, size: int, seal: bytes) -> bool:
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, 2**20))):
        digest.update(block)
        size -= len(block)
    digest.update(_NO_COMMENT)
    return seal == struct.pack("<H", _COMMENT) + _MARK + digest.hexdigest().encode()


def newest_whole(path: str | os.PathLike) -> Path | None:
    """The newest other checkpoint in the folder of ``path`` that is whole."""
    path = Path(path)
    others = [p for p in path.parent.glob("*.ckpt") if p.name != path.name and not p.name.startswith(".")]
    others.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    return next((other for other in others if zipfile.is_zipfile(other) and damage(other) is None), None)


def load_sealed(path: str | os.PathLike, map_location: Any = "cpu") -> Any:
    """What :func:`save_sealed` was given; tensors and plain values only, nothing in the file is executed.

    Raises:
        UserError: missing, damaged or foreign file, in one line that names it, and the newest whole one beside it.
    """
    if not os.path.isfile(path):
        raise UserError(f"no such checkpoint: {path}")
    reason = damage(path)
    if reason is None:
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except Exception as error:  # torch reports damage and foreign files in a dozen types
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    whole = newest_whole(path)
    other = f"; the newest whole one beside it is {whole}" if whole else "; no other one beside it is whole"
    raise UserError(f"cannot read checkpoint {path}: it is truncated, damaged or not a checkpoint ({reason}){other}")
