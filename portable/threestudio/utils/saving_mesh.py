"""Savers of meshes, for :class:`threestudio.utils.saving.SaverMixin`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from threestudio.utils.errors import UserError
from threestudio.utils.files import atomic_path
from threestudio.utils.mesh_files import check_mesh, mtl_text, obj_text

TEXTURE_FILES = {
    "map_Kd": "texture_kd",
    "map_Ks": "texture_ks",
    "map_Bump": "texture_nrm",
    "map_Pm": "texture_metallic",
    "map_Pr": "texture_roughness",
}
"""Saver argument, which is also the .mtl keyword -> file name without suffix."""

GRAYSCALE_MAPS = ("map_Pm", "map_Pr")


class MeshSaverMixin:
    """``save_obj``: everything is checked and made in memory first, the mesh file is written last."""

    def save_obj(
        self,
        filename: str,
        mesh: Any,
        save_mat: bool = False,
        save_normal: bool = False,
        save_uv: bool = False,
        save_vertex_color: bool = False,
        map_Kd: Any = None,
        map_Ks: Any = None,
        map_Bump: Any = None,
        map_Pm: Any = None,
        map_Pr: Any = None,
        map_format: str = "jpg",
    ) -> list[str]:
        """Wavefront .obj, with ``save_mat`` also .mtl and the maps (each [H, W, 3 or 1] in 0 .. 1).

        Returns:
            paths in the order .mtl, maps, .obj.

        Raises:
            ValueError: the mesh is empty or not finite, or the folder cannot be written to.
        """
        check_mesh(mesh)
        path = self._mesh_path(filename)
        maps = {"map_Kd": map_Kd, "map_Ks": map_Ks, "map_Bump": map_Bump, "map_Pm": map_Pm, "map_Pr": map_Pr}
        maps = {key: image for key, image in maps.items() if save_mat and image is not None}
        names = {key: f"{TEXTURE_FILES[key]}.{map_format}" for key in maps}
        material = path.with_suffix(".mtl")
        text = obj_text(mesh, material.name if save_mat else None, save_normal, save_uv, save_vertex_color)
        paths = []
        with _writing(path):
            if save_mat:
                _write(material, mtl_text(names).encode())
                paths.append(str(material))
            for key, image in maps.items():
                paths.append(self._save_map(str(Path(filename).parent / names[key]), image, key in GRAYSCALE_MAPS))
            _write(path, text.encode())
        return [*paths, str(path)]

    def _mesh_path(self, filename: str) -> Path:
        """Path that ends in .obj and whose folder exists."""
        filename = filename if filename.endswith(".obj") else f"{filename}.obj"
        with _writing(Path(self.get_save_dir()) / filename):
            return Path(self.get_save_path(filename))

    def _save_map(self, filename: str, image: Any, gray: bool) -> str:
        if not gray:
            return self.save_rgb_image(filename, image)
        image = self.convert_data(image)
        return self.save_grayscale_image(filename, image.reshape(image.shape[:2]), data_range=(0, 1), cmap=None)


def _write(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """One sentence in place of the system's errors."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
