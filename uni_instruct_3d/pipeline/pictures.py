"""Pictures of a finished stage for people: a turntable without normals and masks glued on, and four views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from threestudio.data.uncond import RandomCameraDataModuleConfig, RandomCameraDataset
from threestudio.utils.config import parse_structured
from threestudio.utils.files import atomic_path
from threestudio.utils.images import write_video

#: Stage -> frames of a turntable, side in pixels: a rasterised frame is cheap, a ray-marched one is not.
TURNTABLES = {"nerf": (30, 160), "geometry": (60, 512), "texture": (60, 512)}
SECONDS = 2


@torch.no_grad()
def around(scene: Any, data: dict[str, Any], views: int, side: int) -> Iterator[dict[str, Any]]:
    """What the renderer of a scene gives for cameras at equal steps around it, colours too where the stage trains none.

    data: the configuration's block, for elevation, distance and field of view.
    """
    stock = {field.name for field in fields(RandomCameraDataModuleConfig)}  # a data module may have more
    block = {key: value for key, value in data.items() if key in stock}
    block |= {"n_val_views": views, "eval_height": side, "eval_width": side}
    cameras = RandomCameraDataset(parse_structured(RandomCameraDataModuleConfig, block), "val")
    for index in range(views):
        batch = cameras.collate([cameras[index]])
        yield scene.renderer(**{k: v.to(scene.device) if torch.is_tensor(v) else v for k, v in batch.items()})


def frames_of(scene: Any, data: dict[str, Any], stage: str) -> list[np.ndarray]:
    """Frames of a turntable, [S, S, 3] in 0..255."""
    outputs = around(scene, data, *TURNTABLES[stage])
    return [(255 * out["comp_rgb"][0].clamp(0, 1) + 0.5).to(torch.uint8).cpu().numpy() for out in outputs]


def write_pictures(frames: Sequence[np.ndarray], folder: Path, side: int = 256) -> list[Path]:
    """``turntable.mp4`` of all frames, ``preview.png`` of four; returns the paths."""
    video, preview = folder / "turntable.mp4", folder / "preview.png"
    write_video(str(video), list(frames), max(1, len(frames) // SECONDS))
    quarter = [Image.fromarray(frames[index * len(frames) // 4]).resize((side, side)) for index in range(4)]
    with atomic_path(preview) as temporary:
        Image.fromarray(np.concatenate([np.asarray(picture) for picture in quarter], axis=1)).save(temporary)
    return [video, preview]
