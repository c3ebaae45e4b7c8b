"""Pictures and masks as people have them, to tensors of the teacher's size; what had to be changed is said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from uni_instruct_guidance.core.errors import UserError
from uni_instruct_guidance.core.files import atomically
from uni_instruct_guidance.scoring.frames import UNREADABLE

#: Modes of Pillow with more than eight bits a channel, and their white.
DEEP = {"I;16": 65535.0, "I;16B": 65535.0, "I;16L": 65535.0, "I": 65535.0}
#: The note about them.
DEEPER = "its 16 bits are rounded to 8"
#: What a picture is in each number of channels.
MODES = {1: "L", 3: "RGB"}


@dataclass
class Picture:
    """pixels [C, S, S] in 0..1; size: (width, height) of the file; notes: what was done to it."""

    pixels: Tensor
    size: tuple[int, int]
    notes: list[str]


def read_picture(path: str | Path, side: int, channels: int = 3) -> Picture:
    """A picture file as the teacher takes it.

    Turned as its camera says; transparent parts on white; the middle square of what is not square; smoothed where it
    gets smaller.

    Raises:
        UserError: no such file, a folder, or nothing that can be read as a picture.
    """
    picture, notes = _opened(Path(path))
    size = picture.size
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if picture.getextrema()[3][0] < 255:
            notes.append("its transparent parts are laid on white")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return Picture(_fitted(picture.convert(MODES[channels]), side, notes), size, notes)


def read_mask(path: str | Path, like: Picture, side: int) -> Tensor:
    """A mask [1, S, S] of 0 and 1 (from half white on) for a picture, cut and resized as that was.

    Raises:
        UserError: as `read_picture`; or it has another size than the picture's file, or marks nothing.
    """
    picture, _ = _opened(Path(path))
    if picture.size != like.size:
        sizes = [f"{width} × {height}" for width, height in (picture.size, like.size)]
        raise UserError(f"mask {path} has {sizes[0]} pixels, the picture {sizes[1]}; give a mask of the picture's size")
    if picture.mode == "LA" or picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture.convert("RGBA"))
    mask = (_fitted(picture.convert("L"), side, []) >= 0.5).float()
    if not mask.any():
        raise UserError(f"mask {path} is black everywhere; white marks the pixels that it means")
    return mask


def _opened(path: Path) -> tuple[Image.Image, list[str]]:
    """The picture with eight bits a channel, and what was done."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; give one picture")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    try:
        with Image.open(path) as file:
            # Pillow itself keeps eight bits of sixteen-bit colours
            notes = [DEEPER] if any(";16" in str(tile) for tile in file.tile) and file.mode not in DEEP else []
            picture = ImageOps.exif_transpose(file)
            picture.load()
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as a picture: {' '.join(str(error).split())}") from error
    if picture.mode == "F":
        raise UserError(f"{path}: a picture of floating-point numbers; save it with 8 or 16 bits a channel")
    if picture.mode in DEEP:
        values = np.asarray(picture).astype(np.float64) / DEEP[picture.mode]
        picture = Image.fromarray((values.clip(0, 1) * 255 + 0.5).astype(np.uint8))
        return picture, [DEEPER]
    return picture, notes


def _fitted(picture: Image.Image, side: int, notes: list[str]) -> Float[Tensor, "C S S"]:
    width, height = picture.size
    if width != height:
        short = min(width, height)
        left, top = (width - short) // 2, (height - short) // 2
        picture = picture.crop((left, top, left + short, top + short))
        notes.append(f"the middle square of its {width} × {height} pixels is taken")
    if picture.size != (side, side):
        notes.append(f"resized from {picture.width} × {picture.height} to the teacher's {side} × {side} pixels")
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    values = torch.from_numpy(np.array(picture, dtype=np.float32) / 255)
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


# --- out --------------------------------------------------------------------------------------------------------------


def as_pixels(pixels: Float[Tensor, "C H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Eight bits, grey as three channels."""
    values = (255 * pixels.detach().float().clamp(0, 1) + 0.5).to(torch.uint8).cpu()
    return values.expand(3, -1, -1).permute(1, 2, 0).numpy()


def save_picture(path: Path, pixels: Float[Tensor, "C H W"]) -> None:
    """PNG, whole or not at all."""
    _save(path, Image.fromarray(as_pixels(pixels)))


def save_strip(path: Path, pictures: list[Float[Tensor, "C H W"]], least: int = 256) -> None:
    """Pictures side by side, each enlarged to at least `least` pixels, hard-edged."""
    tiles = []
    for pixels in pictures:
        tile = Image.fromarray(as_pixels(pixels))
        factor = max(1, -(-least // tile.width))
        tiles.append(tile.resize((tile.width * factor, tile.height * factor), Image.Resampling.NEAREST))
    gap = 8
    strip = Image.new("RGB", (sum(t.width + gap for t in tiles) - gap, max(t.height for t in tiles)), "white")
    left = 0
    for tile in tiles:
        strip.paste(tile, (left, 0))
        left += tile.width + gap
    _save(path, strip)


def _save(path: Path, picture: Image.Image) -> None:
    atomically(path, lambda partial: picture.save(partial, format="PNG"))
