"""Everything that a run writes into its ``save`` folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from threestudio.utils.errors import SpecificationError, UserError
from threestudio.utils.files import atomic_path
from threestudio.utils.images import (
    PAINTERS,
    captioned,
    grayscale_pixels,
    image_grid,
    numbered_files,
    rgb_pixels,
    uv_pixels,
    write_image,
    write_video,
)
from threestudio.utils.saving_mesh import MeshSaverMixin

VIDEO_FORMATS = ("gif", "mp4")


class SaverMixin(MeshSaverMixin):
    """Savers of images, image grids, videos and data. File names are relative to the save folder.

    Every saver makes the sub-folders it needs, writes complete files or none, and returns the path. With ``name`` and
    ``step`` an image also goes to the loggers of :meth:`get_loggers` that take images.
    """

    _save_dir: str | None = None

    DEFAULT_RGB_KWARGS = {"data_format": "HWC", "data_range": (0, 1)}
    DEFAULT_UV_KWARGS = {"data_format": "HWC", "data_range": (0, 1), "cmap": "checkerboard"}
    DEFAULT_GRAYSCALE_KWARGS = {"data_range": None, "cmap": "jet"}
    DEFAULT_GRID_KWARGS = {"align": "max"}

    def set_save_dir(self, save_dir: str) -> None:
        """Folder for everything that is saved."""
        self._save_dir = save_dir

    def get_save_dir(self) -> str:
        """Folder for everything that is saved.

        Raises:
            ValueError: it was not set.
        """
        if self._save_dir is None:
            raise UserError("no save folder: call set_save_dir before saving")
        return self._save_dir

    def get_save_path(self, filename: str) -> str:
        """Path of a file in the save folder; makes its folder."""
        path = os.path.join(self.get_save_dir(), filename)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def convert_data(self, data: Any) -> Any:
        """Tensors (also inside lists and dicts) -> NumPy arrays; arrays and None pass.

        Raises:
            TypeError: anything else.
        """
        if data is None or isinstance(data, np.ndarray):
            return data
        if isinstance(data, torch.Tensor):
            data = data.detach().cpu()
            return (data.float() if data.dtype in (torch.float16, torch.bfloat16) else data).numpy()
        if isinstance(data, list):
            return [self.convert_data(item) for item in data]
        if isinstance(data, dict):
            return {key: self.convert_data(value) for key, value in data.items()}
        raise TypeError(f"can save tensors, arrays, lists and dicts of them, not {type(data).__name__}")

    # ------------------------------------------------------------------------------------------------------ images
    def get_loggers(self) -> list:
        """Loggers that take images; the system names its own."""
        return []

    def _write_image(self, filename: str, img: np.ndarray, name: str | None, step: int | None) -> str:
        path = self.get_save_path(filename)
        write_image(path, img)
        if name is not None and step is not None:
            for logger in self.get_loggers():
                logger.experiment.add_image(name, img, step, dataformats="HWC")
        return path

    def save_rgb_image(
        self,
        filename: str,
        img: Any,
        data_format: str = "HWC",
        data_range: tuple[float, float] = (0, 1),
        name: str | None = None,
        step: int | None = None,
    ) -> str:
        """Colour image, float in ``data_range`` or uint8."""
        return self._write_image(filename, rgb_pixels(self.convert_data(img), data_format, data_range), name, step)

    def save_uv_image(
        self,
        filename: str,
        img: Any,
        data_format: str = "HWC",
        data_range: tuple[float, float] = (0, 1),
        cmap: str = "checkerboard",
        name: str | None = None,
        step: int | None = None,
    ) -> str:
        """Texture coordinates (H, W, 2)."""
        pixels = uv_pixels(self.convert_data(img), data_format, data_range, cmap)
        return self._write_image(filename, pixels, name, step)

    def save_grayscale_image(
        self,
        filename: str,
        img: Any,
        data_range: tuple[float, float] | None = None,
        cmap: str | None = "jet",
        name: str | None = None,
        step: int | None = None,
    ) -> str:
        """Scalar image (H, W) through a colour map: jet, magma, spectral or None (gray)."""
        return self._write_image(filename, grayscale_pixels(self.convert_data(img), data_range, cmap), name, step)

    def save_image_grid(
        self,
        filename: str,
        imgs: list,
        align: Any = "max",
        name: str | None = None,
        step: int | None = None,
        texts: list[str] | None = None,
    ) -> str:
        """Several images in one file.

        Args:
            imgs: a row, or a list of rows, of ``{"type": "rgb" | "uv" | "grayscale", "img": ..., "kwargs": {...}}``.
            align: common size: ``max``, ``min``, an int, or (height, width).
            texts: lines written into the corner.
        """
        rows = [imgs] if isinstance(imgs[0], dict) else imgs
        grid = image_grid([[self._painted(entry) for entry in row] for row in rows], align)
        return self._write_image(filename, captioned(grid, texts) if texts else grid, name, step)

    def _painted(self, entry: dict) -> np.ndarray:
        if entry["type"] not in PAINTERS:
            raise SpecificationError(f"unknown image type '{entry['type']}'; choices: {', '.join(PAINTERS)}")
        return PAINTERS[entry["type"]](self.convert_data(entry["img"]), **entry.get("kwargs", {}))

    def save_image(self, filename: str, img: Any) -> str:
        """uint8 image as it is.

        Raises:
            AssertionError: the image is not uint8.
        """
        img = self.convert_data(img)
        if img.dtype != np.uint8:
            raise SpecificationError(f"save_image takes uint8 pixels, not {img.dtype}; see save_rgb_image")
        return self._write_image(filename, img, None, None)

    def save_img_sequence(
        self,
        filename: str,
        img_dir: str,
        matcher: str,
        save_format: str = "mp4",
        fps: int = 30,
        name: str | None = None,
        step: int | None = None,
    ) -> str:
        """Video of the images in a folder of the save folder, in the order of the number in their names.

        Args:
            matcher: pattern of the file names; its first group is the number.
            save_format: ``mp4`` or ``gif``; appended to the name when missing.
        """
        if save_format not in VIDEO_FORMATS:
            raise SpecificationError(f"unknown save_format '{save_format}'; choices: {', '.join(VIDEO_FORMATS)}")
        suffix = f".{save_format}"
        path = self.get_save_path(filename if filename.endswith(suffix) else filename + suffix)
        folder = os.path.join(self.get_save_dir(), img_dir)
        files = numbered_files(folder, matcher)
        if not files:
            raise UserError(f"no image in {folder} has a name like {matcher}")
        write_video(path, [np.asarray(Image.open(file).convert("RGB")) for file in files], fps)
        return path

    # -------------------------------------------------------------------------------------------------------- data
    def save_data(self, filename: str, data: Any) -> str:
        """Array as .npy, or dict of arrays as .npz; the suffix is added when missing."""
        data = self.convert_data(data)
        suffix, write = (
            (".npz", lambda p: np.savez(p, **data)) if isinstance(data, dict) else (".npy", lambda p: np.save(p, data))
        )
        path = self.get_save_path(filename if filename.endswith(suffix) else filename + suffix)
        with atomic_path(path) as temporary:
            write(temporary)
        return path

    def save_state_dict(self, filename: str, data: dict) -> str:
        """Weights, readable with ``torch.load(..., weights_only=True)``."""
        path = self.get_save_path(filename)
        with atomic_path(path) as temporary:
            torch.save(data, temporary)
        return path

    def save_json(self, filename: str, payload: Any) -> str:
        """Plain values as JSON."""
        path = self.get_save_path(filename)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(payload))
        return path

    def save_file(self, filename: str, src_path: str) -> str:
        """Copy of a file."""
        path = self.get_save_path(filename)
        with atomic_path(path) as temporary:
            shutil.copyfile(src_path, temporary)
        return str(Path(path))
