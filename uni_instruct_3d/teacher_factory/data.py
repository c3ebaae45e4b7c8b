"""Renders on disk: shards made by several processes, each written at once and skipped when it is there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from .backgrounds import composite, draw_backgrounds

LABELS = ("class_id", "color_id", "pattern_id", "view_id", "kind")
CAMERA = ("azimuth_deg", "elevation_deg", "fovy_deg", "distance")
ARRAYS = ("image", "foreground", *LABELS, *CAMERA)


class World(Protocol):
    """What a data source offers; ``shapes_world`` is one, the tests bring a toy."""

    CLASSES: tuple[str, ...]
    COLORS: tuple[str, ...]
    PATTERNS: tuple[str, ...]
    VIEWS: tuple[str, ...]
    VIEW_CLASSES: tuple[str, ...]
    sample_batch: Callable[..., dict[str, Any]]


@dataclass
class Renders:
    """Images with their captions and labels, item i of every field belonging together.

    ``cutout``: images are premultiplied by ``foreground`` and lie on black, any background may be put behind them.
    """

    image: UInt8[np.ndarray, "n h w 3"]
    foreground: UInt8[np.ndarray, "n h w"]
    caption: list[str]
    class_id: Int[np.ndarray, "n"]
    color_id: Int[np.ndarray, "n"]
    pattern_id: Int[np.ndarray, "n"]
    view_id: Int[np.ndarray, "n"]
    kind: Int[np.ndarray, "n"]
    azimuth_deg: Float[np.ndarray, "n"]
    elevation_deg: Float[np.ndarray, "n"]
    fovy_deg: Float[np.ndarray, "n"]
    distance: Float[np.ndarray, "n"]
    cutout: bool = False

    def __len__(self) -> int:
        return len(self.caption)

    def part(self, start: int, stop: int) -> Renders:
        """Items start .. stop - 1."""
        fields = {name: getattr(self, name)[start:stop] for name in (*ARRAYS, "caption")}
        return Renders(**fields, cutout=self.cutout)

    def pictures(
        self, index: Int[Tensor, "n"], generator: torch.Generator, shared: Int[Tensor, "n"] | None = None
    ) -> Float[Tensor, "n 3 h w"]:
        """These items in [-1, 1]; cut-outs get random backgrounds, one for all items of the same number in ``shared``
        (0 .. count - 1)."""
        image = torch.from_numpy(self.image[index.numpy()])
        if not self.cutout:
            return image.movedim(-1, 1).float().div(127.5).sub(1.0)
        backgrounds = draw_backgrounds(generator, torch.from_numpy(self.kind)[index])
        backgrounds = backgrounds if shared is None else backgrounds[shared]
        return composite(image, torch.from_numpy(self.foreground[index.numpy()]), backgrounds)


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard_{index:04d}.npz"


def _render_shard(world: World, folder: Path, index: int, spec: dict[str, Any]) -> int:
    batch = world.sample_batch(
        spec["seed"], index * spec["shard"], spec["shard"], size=spec["size"], split=spec["split"], group=spec["group"],
        **spec["style"],
    )  # fmt: skip
    path = _shard_path(folder, index)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with open(partial, "wb") as file:
        np.savez(file, caption=np.asarray(batch["caption"]), **{name: np.asarray(batch[name]) for name in ARRAYS})
    os.replace(partial, path)
    return spec["shard"]


def _import_world_and_render(folder: Path, index: int, spec: dict[str, Any]) -> int:
    from .. import shapes_world

    return _render_shard(shapes_world, folder, index, spec)


def generate(
    folder: Path, images: int, *, size: int, split: str, seed: int, group: int, shard: int, style: str = "light",
    world: World | None = None, workers: int = 1,
) -> None:  # fmt: skip
    """Fill ``folder`` with ``images`` renders in shards of ``shard``; shards already there are kept.

    ``world=None`` is the procedural world, rendered by ``workers`` processes; any other source runs in this one.
    Raises ValueError if ``shard`` does not hold whole groups.
    """
    if shard % group:
        raise ValueError(f"data.shard={shard} must be a multiple of data.group={group}")
    folder.mkdir(parents=True, exist_ok=True)
    spec = {"seed": seed, "shard": shard, "size": size, "split": split, "group": group}
    spec["style"] = {} if style == "light" else {"style": style}  # a world with one style need not know the word
    missing = [i for i in range(-(-images // shard)) if not _shard_path(folder, i).exists()]
    with tqdm(total=len(missing) * shard, desc=f"render {folder.name}", unit="img", disable=not missing) as bar:
        if world is not None:
            for index in missing:
                bar.update(_render_shard(world, folder, index, spec))
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for done in pool.map(_import_world_and_render, *zip(*[(folder, i, spec) for i in missing])):
                bar.update(done)


def _wide(dtype: np.dtype) -> np.dtype:
    """Captions of later shards may be longer than those of the first."""
    return np.dtype(object) if dtype.kind == "U" else dtype


def load(folder: Path, images: int | None = None, *, cutout: bool = False) -> Renders:
    """The renders of ``folder`` in memory, the first ``images`` of them. Raises FileNotFoundError if there are none.

    ``cutout``: whether they were rendered as such (style "cutout"), see :class:`Renders`.
    """
    shards = sorted(folder.glob("shard_*.npz"))
    if not shards:
        raise FileNotFoundError(f"no renders in {folder}: run the phase 'data' first")
    stacked: dict[str, np.ndarray] = {}
    count, total = 0, 0
    for shard in shards:  # into arrays of the final size: at 128 x 128 a second copy is gigabytes
        if images is not None and count >= images:
            break
        with np.load(shard, allow_pickle=False) as file:
            if not stacked:
                total = min(len(file["caption"]) * len(shards), images or sys.maxsize)
                names = (*ARRAYS, "caption")
                stacked = {name: np.empty((total, *file[name].shape[1:]), _wide(file[name].dtype)) for name in names}
            size = min(len(file["caption"]), total - count)
            for name, whole in stacked.items():
                whole[count : count + size] = file[name][:size]
        count += size
    stacked = {name: whole[:count] for name, whole in stacked.items()}
    captions = [str(text) for text in stacked.pop("caption")]
    return Renders(**stacked, caption=captions, cutout=cutout)
