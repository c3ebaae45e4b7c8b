"""Captions of pictures: the data's own, or `metadata.jsonl` beside them, a {"file_name": …, "text": …} a line."""

from __future__ import annotations

import json

from .base import ImageData
from .images import ImageFiles

FILE = "metadata.jsonl"


def captions_of(data: ImageData) -> list[str]:
    """The caption of every picture, in the data's order.

    Raises:
        ValueError: the data are no files, there is no such file, a line is wrong, or a picture has no caption.
    """
    if data.captions is not None:
        return list(data.captions)
    if not isinstance(data, ImageFiles):
        raise ValueError(f"real=data: captioned pictures need data.name=folder or zip with {FILE}, got {data.name!r}")
    if FILE not in data.files.names():
        raise ValueError(f'data.path: {data.name} has no {FILE} with lines {{"file_name": …, "text": …}}')
    found: dict[str, str] = {}
    for number, line in enumerate(data.files.read(FILE).decode("utf-8", "replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            found[str(entry["file_name"]).replace("\\", "/")] = str(entry["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"data.path: line {number} of {FILE} in {data.name} is no caption: {error!r}") from error
    missing = [name for name in data.file_names if name not in found]
    if missing:
        raise ValueError(f"data.path: {FILE} in {data.name} has no caption of {missing[0]} ({len(missing)} such)")
    return [found[name] for name in data.file_names]
