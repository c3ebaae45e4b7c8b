"""Data sets by name, and the loader that deals out the images of each training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import choose
from ...core.ranges import check, whole
from .base import ArrayData, ImageData, to_unit_range
from .cifar10 import load_cifar10
from .digits import load_digits_data
from .imagenet64 import load_imagenet64
from .images import load_folder, load_zip
from .loader import StepSampler, image_loader

__all__ = ["DATASETS", "ArrayData", "DataConfig", "DatasetRow", "ImageData", "StepSampler", "image_loader", "load_data",
           "to_unit_range"]  # fmt: skip


# Numbers of a DataConfig, see core/ranges.py.
RANGES = {"workers": whole(least=0)}


@dataclass
class DataConfig:
    """Where real images come from.

    Args:
        name: row of `DATASETS`: digits | folder | zip | cifar10 | imagenet64; `uni_instruct_3d` adds shapes, the
            procedural world.
        path: folder or file; not needed for digits and shapes.
        workers: processes that read and decode images beside the training process.
        options: of rows that have any (shapes: `WorldOptions` in uni_instruct_3d/world_data.py).
    """

    name: str = "digits"
    path: str | None = None
    workers: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetRow:
    """One kind of data: how it is read, whether it needs a path, and whether it takes options."""

    load: Callable[[DataConfig], ImageData]
    needs_path: bool = True
    takes_options: bool = False


DATASETS: dict[str, DatasetRow] = {
    "digits": DatasetRow(load_digits_data, needs_path=False),
    "folder": DatasetRow(load_folder),
    "zip": DatasetRow(load_zip),
    "cifar10": DatasetRow(load_cifar10),
    "imagenet64": DatasetRow(load_imagenet64),
}


def load_data(cfg: DataConfig) -> ImageData:
    """Open and check a data set.

    Raises:
        ValueError: unknown name, missing path, or files that are not what they should be; one line that names them.
    """
    row = choose("data.name", cfg.name, DATASETS)
    if row.needs_path:
        if not cfg.path:
            raise ValueError(f"data.path is missing: data.name={cfg.name} needs the place of the files")
        if not Path(cfg.path).exists():
            raise ValueError(f"data.path={cfg.path!r} does not exist")
    if cfg.options and not row.takes_options:
        raise ValueError(f"data.options={cfg.options!r}: data.name={cfg.name} has no options")
    check(RANGES, cfg, "data.")
    return row.load(cfg)
