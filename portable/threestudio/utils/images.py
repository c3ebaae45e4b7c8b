"""From float images to uint8 pixels: ranges, colour maps, grids."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from threestudio.utils.errors import SpecificationError, UserError
from threestudio.utils.files import atomic_path

Pixels = np.ndarray
"""uint8, (H, W, 3)."""


def to_uint8(values: np.ndarray, data_range: tuple[float, float] = (0, 1)) -> np.ndarray:
    """Clip to the range, stretch it to 0..255 and truncate; nan becomes 0, uint8 passes through."""
    if values.dtype == np.uint8:
        return values
    low, high = data_range
    values = np.nan_to_num(values, nan=0.0)
    return ((values.clip(low, high) - low) / (high - low) * 255.0).astype(np.uint8)


def rgb_pixels(img: np.ndarray, data_format: str = "HWC", data_range: tuple[float, float] = (0, 1)) -> Pixels:
    """Colour image (H, W, C), or (C, H, W) with ``data_format="CHW"``.

    Channels beyond three are shown as further images beside the first, three channels each, padded with zeros.
    """
    if data_format not in ("HWC", "CHW"):
        raise SpecificationError(f"unknown data_format '{data_format}'; choices: HWC, CHW")
    if data_format == "CHW":
        img = img.transpose(1, 2, 0)
    img = to_uint8(img, data_range)
    missing = -img.shape[-1] % 3
    img = np.pad(img, ((0, 0), (0, 0), (0, missing)))
    return np.concatenate(np.split(img, img.shape[-1] // 3, axis=-1), axis=1)


def _gray(unit: np.ndarray) -> Pixels:
    return np.stack([to_uint8(unit)] * 3, -1)


def _jet(unit: np.ndarray) -> Pixels:
    """Blue - cyan - yellow - red, as OpenCV tabulates it: ramps of slope 4 over quarters of the 256 levels."""
    level = to_uint8(unit).astype(np.int64)
    # A ramp reaches full strength between two levels, so it starts at 2 where its quarter starts one level late.
    red = np.clip(np.minimum(4 * (level - 96) + 2, 4 * (287 - level)), 0, 255)
    green = np.clip(np.minimum(4 * (level - 32), 4 * (223 - level)), 0, 255)
    blue = np.clip(np.minimum(128 + 4 * level, 4 * (159 - level) + 2), 0, 255)
    return np.stack([red, green, blue], -1).astype(np.uint8)


def _matplotlib_map(name: str) -> Callable[[np.ndarray], Pixels]:
    def pixels(unit: np.ndarray) -> Pixels:
        import matplotlib  # a quarter of a second, which only this takes

        return to_uint8(matplotlib.colormaps[name](unit)[..., :3])

    return pixels


#: Colour maps from [0, 1] to pixels.
COLOR_MAPS: dict[str | None, Callable[[np.ndarray], Pixels]] = {
    None: _gray,
    "jet": _jet,
    "magma": _matplotlib_map("magma"),
    "spectral": _matplotlib_map("Spectral"),
}


def grayscale_pixels(
    img: np.ndarray, data_range: tuple[float, float] | None = None, cmap: str | None = "jet"
) -> Pixels:
    """Scalar image (H, W) through a colour map. Without a range the image's own is stretched.

    Raises:
        AssertionError: unknown colour map.
    """
    if cmap not in COLOR_MAPS:
        raise SpecificationError(f"unknown cmap '{cmap}'; choices: {', '.join(map(str, COLOR_MAPS))}")
    img = np.nan_to_num(img.astype(np.float32), nan=0.0)
    if data_range is None:
        data_range = (img.min(), img.max() if img.max() > img.min() else img.min() + 1)
    low, high = data_range
    return COLOR_MAPS[cmap]((img.clip(low, high) - low) / (high - low))


def _checkerboard(uv: np.ndarray) -> Pixels:
    """64 x 64 fields, white and magenta."""
    fields = (uv * 64).astype(np.int64).sum(-1)
    return np.where((fields % 2 == 0)[..., None], [255, 0, 255], [255, 255, 255]).astype(np.uint8)


def _uv_as_colour(uv: np.ndarray) -> Pixels:
    return to_uint8(np.concatenate([uv, np.zeros_like(uv[..., :1])], -1))


UV_MAPS = {"checkerboard": _checkerboard, "color": _uv_as_colour}


def uv_pixels(
    img: np.ndarray,
    data_format: str = "HWC",
    data_range: tuple[float, float] = (0, 1),
    cmap: str = "checkerboard",
) -> Pixels:
    """Texture coordinates (H, W, 2) as a checkerboard or as red and green."""
    if cmap not in UV_MAPS:
        raise SpecificationError(f"unknown cmap '{cmap}'; choices: {', '.join(UV_MAPS)}")
    if data_format == "CHW":
        img = img.transpose(1, 2, 0)
    low, high = data_range
    return UV_MAPS[cmap]((np.nan_to_num(img.astype(np.float64)).clip(low, high) - low) / (high - low))


#: ``type`` of an entry of an image grid.
PAINTERS: dict[str, Callable[..., Pixels]] = {"rgb": rgb_pixels, "uv": uv_pixels, "grayscale": grayscale_pixels}


def resized(img: Pixels, height: int, width: int) -> Pixels:
    """Bilinear, without smoothing when it shrinks."""
    if img.shape[:2] == (height, width):
        return img
    channels_first = torch.from_numpy(img).permute(2, 0, 1)[None].float()
    out = F.interpolate(channels_first, (height, width), mode="bilinear", align_corners=False)
    return out[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


#: Height and width that all images of a grid get.
ALIGNMENTS = {"max": lambda sizes: sizes.max(0), "min": lambda sizes: sizes.min(0)}


def image_grid(rows: Sequence[Sequence[Pixels]], align: Any = "max") -> Pixels:
    """Rows of images, all resized to one size.

    Args:
        align: ``max`` or ``min`` of all heights and widths, one int for both, or (height, width).
    """
    sizes = np.array([img.shape[:2] for row in rows for img in row])
    if isinstance(align, str) and align in ALIGNMENTS:
        height, width = ALIGNMENTS[align](sizes)
    elif isinstance(align, int):
        height = width = align
    elif isinstance(align, (tuple, list)) and len(align) == 2:
        height, width = align
    else:
        raise UserError(f"unknown align '{align}' of an image grid; choices: max, min, a size, (height, width)")
    lines = [np.concatenate([resized(img, int(height), int(width)) for img in row], 1) for row in rows]
    widest = max(line.shape[1] for line in lines)
    return np.concatenate([np.pad(line, ((0, 0), (0, widest - line.shape[1]), (0, 0))) for line in lines])


def captioned(img: Pixels, texts: Sequence[str]) -> Pixels:
    """Write lines of text into the upper left corner."""
    picture = Image.fromarray(img)
    ImageDraw.Draw(picture).multiline_text(
        (4, 4), "\n".join(texts), fill=(0, 0, 0), stroke_width=1, stroke_fill="white"
    )
    return np.asarray(picture)


def write_image(path: str | Path, img: np.ndarray) -> None:
    """Write uint8 pixels as the format that the name ends in."""
    with atomic_path(path) as temporary:
        Image.fromarray(img).save(temporary)


def numbered_files(folder: str | Path, matcher: str) -> list[Path]:
    """Files of ``folder`` whose name the pattern matches, sorted by the number in its first group."""
    pattern = re.compile(matcher)
    found = {path: m for path in Path(folder).iterdir() if (m := pattern.search(path.name))}
    return sorted(found, key=lambda path: int(found[path].group(1)))


def write_video(path: str | Path, frames: Sequence[Pixels], fps: int) -> None:
    """Write frames as .mp4 (H.264; an odd size gets a black row or column, the codec needs even ones) or .gif."""
    with atomic_path(path) as temporary:
        if temporary.suffix == ".gif":
            iio.imwrite(temporary, np.stack(frames), duration=1000 / fps, loop=0)
            return
        height, width = frames[0].shape[:2]
        even = [np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0))) for frame in frames]
        iio.imwrite(temporary, np.stack(even), fps=fps, codec="libx264", macro_block_size=2, plugin="FFMPEG")
