"""Pictures that exist already: a folder of frames or a video, as a turntable writes them."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from jaxtyping import UInt8
from PIL import Image

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
VIDEOS = (".mp4", ".gif", ".webm", ".mov", ".avi")
# What Pillow raises over a file that is no picture, broken, or a decompression bomb.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def load_frames(path: str | Path, background: tuple[float, float, float]) -> UInt8[np.ndarray, "n H W 3"]:
    """Pictures of a folder in the order of the numbers in their names, or of a video.

    Transparent pictures are laid over `background` (0..1). Where a frame is a row of square panels, as threestudio's
    turntables are (colour, normals, opacity), the first is taken.

    Raises:
        ValueError: one line naming the file: nothing there, unreadable, truncated, or of several sizes.
    """
    path = Path(path)
    frames = _folder(path, background) if path.is_dir() else _video(path)
    if len({frame.shape for frame in frames}) > 1:
        sizes = sorted({f"{frame.shape[1]}x{frame.shape[0]}" for frame in frames})
        raise ValueError(f"{path}: its pictures have several sizes: {', '.join(sizes)}")
    return np.stack([first_panel(frame) for frame in frames])


def first_panel(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The left square of a row of square panels; any other picture as it is."""
    height, width = frame.shape[:2]
    return frame[:, :height] if width > height and width % height == 0 else frame


def _folder(path: Path, background: tuple[float, float, float]) -> list[np.ndarray]:
    files = [file for file in path.iterdir() if file.suffix.lower() in PICTURES]
    if not files:
        raise ValueError(
            f"{path}: no pictures in this folder ({', '.join(PICTURES)}) and no trial (configs/parsed.yaml)"
        )
    files.sort(key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)])
    frames = []
    for file in files:
        try:
            with Image.open(file) as picture:
                rgba = np.asarray(picture.convert("RGBA"), dtype=np.float32) / 255
        except UNREADABLE as error:
            raise ValueError(f"{file}: cannot be read as a picture: {error}") from error
        alpha = rgba[..., 3:]
        rgb = rgba[..., :3] * alpha + np.asarray(background, np.float32) * (1 - alpha)
        frames.append((255 * rgb + 0.5).astype(np.uint8))
    return frames


def _video(path: Path) -> list[np.ndarray]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    plugin = "pillow" if path.suffix.lower() == ".gif" else "FFMPEG"
    try:
        frames = [np.asarray(frame)[..., :3] for frame in iio.imiter(path, plugin=plugin)]
        promised = 0 if plugin == "pillow" else _promised_frames(path)
    except Exception as error:  # ffmpeg's wrapper raises bare exceptions
        raise ValueError(
            f"{path}: cannot be read as a video, truncated? {' '.join(str(error).split())[:160]}"
        ) from error
    # The duration is rounded to hundredths of a second, which may be a frame more or less.
    if len(frames) < max(1, promised - 1):
        raise ValueError(f"{path}: truncated: {len(frames)} of {promised} frames can be read")
    return frames


def _promised_frames(path: Path) -> int:
    meta = iio.immeta(path, plugin="FFMPEG")
    return round(meta["duration"] * meta["fps"])
