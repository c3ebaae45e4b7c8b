"""A contact sheet of the procedural world: every class from its four views and in its patterns.

python scripts/look_at_world.py world.png
python scripts/look_at_world.py mugs.png --classes mug teapot --color blue --size 96 --seed 3
python scripts/look_at_world.py train.png --batch 160        # what training sees, captions printed
"""

import argparse
import sys
from pathlib import Path

import _environment  # noqa: F401
import numpy as np
from PIL import Image

from uni_instruct_3d.command import COUNT, SEED, require_file_place, run_command
from uni_instruct_3d.help import Help
from uni_instruct_3d.shapes_world import CLASSES, COLORS, make_instance, render, sample_batch
from uni_instruct_guidance.core.files import atomically
from uni_instruct_guidance.core.ranges import argument, whole

CAMERAS = ((0, 15), (90, 15), (180, 15), (20, 70))  # azimuth and elevation of front, side, back, overhead
PATTERN_CAMERA = (35, 30)


def class_row(class_name: str, color: str, seed: int, size: int) -> np.ndarray:
    """One row [size, 6 * size, 3] in 0..1: four views of a plain object, then a striped and a dotted one."""
    plain = make_instance(class_name, color, "plain", seed)
    views = [render(plain, *camera, size=size)["image"] for camera in CAMERAS]
    for pattern in ("striped", "dotted"):
        instance = make_instance(class_name, color, pattern, seed + 1)
        views.append(render(instance, *PATTERN_CAMERA, size=size)["image"])
    return np.concatenate(views, 1)


def class_sheet(classes: list[str], color: str | None, seed: int, size: int) -> np.ndarray:
    """The rows of all classes in two columns; without a colour the classes take turns through all of them."""
    rows = [class_row(name, color or COLORS[3 * i % len(COLORS)], seed + i, size) for i, name in enumerate(classes)]
    if len(rows) == 1:
        return rows[0]
    if len(rows) % 2:
        rows.append(np.ones_like(rows[0]))
    half = len(rows) // 2
    return np.concatenate([np.concatenate(rows[:half]), np.concatenate(rows[half:])], 1)


def batch_sheet(n: int, seed: int, size: int) -> np.ndarray:
    """The first n training items, 16 in a row; prints their captions."""
    batch = sample_batch(seed, 0, n, size)
    for index, text in enumerate(batch["caption"]):
        print(f"{index // 16:3d},{index % 16:2d}  {text}")
    blank = np.full((-n % 16, size, size, 3), 255, np.uint8)
    images = np.concatenate([batch["image"], blank]) / 255.0
    return images.reshape(-1, 16, size, size, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 16 * size, 3)


def save(path: Path, image: np.ndarray) -> None:
    """Write a PNG of an image in 0..1, whole or not at all."""
    picture = Image.fromarray((255.0 * image + 0.5).astype(np.uint8))
    atomically(path, lambda partial: picture.save(partial, format="PNG", optimize=True))


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 after one line about what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--classes", nargs="+", default=list(CLASSES), choices=CLASSES, metavar="CLASS")
    parser.add_argument("--color", choices=COLORS, help="one colour for all classes")
    parser.add_argument("--batch", type=COUNT, metavar="N", help="show N training items instead")
    parser.add_argument("--size", type=argument(whole(least=8, most=4096)), default=64, help="pixels per picture")
    parser.add_argument("--seed", type=SEED, default=0)
    args = parser.parse_args(arguments)
    return run_command("error", lambda: draw(args), args.out)


def draw(args: argparse.Namespace) -> None:
    """The sheet that was asked for."""
    require_file_place("OUT", args.out)
    if args.batch:
        sheet = batch_sheet(args.batch, args.seed, args.size)
    else:
        sheet = class_sheet(args.classes, args.color, args.seed, args.size)
    save(args.out, sheet)


if __name__ == "__main__":
    sys.exit(main())
