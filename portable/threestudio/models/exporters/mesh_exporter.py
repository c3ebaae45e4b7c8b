"""The scene as a mesh that other programs load: Wavefront with materials, or with vertex colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import threestudio
from threestudio.models.background.base import BaseBackground
from threestudio.models.exporters.baking import bake, padded
from threestudio.models.exporters.base import Exporter, ExporterOutput
from threestudio.models.geometry.base import BaseGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.mesh import Mesh
from threestudio.utils.errors import UserError
from threestudio.utils.mesh_files import check_mesh
from threestudio.utils.misc import get_device
from threestudio.utils.ops import chunk_batch
from threestudio.utils.rasterize import NVDiffRasterizerContext
from threestudio.utils.typing import Tensor

MAPS = {"albedo": "map_Kd", "bump": "map_Bump", "metallic": "map_Pm", "roughness": "map_Pr"}
"""Channel of the material -> argument of the savers."""

FORMATS = ("obj-mtl", "obj")

SLOW_FACES = 40_000
"""Unwrapping takes 5 s for 20,000 faces and grows faster than their number; from here on it is said."""

POINTS_AT_ONCE = 1 << 16


@threestudio.register("mesh-exporter")
class MeshExporter(Exporter):
    """Surface of the geometry, coloured by the material.

    Args of :class:`Config`:
        fmt: ``obj-mtl`` (textures) or ``obj`` (vertex colours).
        save_name: file name without suffix, for ``model.obj``.
        save_normal: vertex normals in the file.
        save_uv, save_texture: texture coordinates and textures.
        texture_size, texture_format: side in texels; suffix of the images beside the file.
        xatlas_chart_options, xatlas_pack_options: see :meth:`Mesh.unwrap_uv`.
        context_type: rasteriser that draws the texture, see :class:`NVDiffRasterizerContext`.
    """

    @dataclass
    class Config(Exporter.Config):
        fmt: str = "obj-mtl"
        save_name: str = "model"
        save_normal: bool = False
        save_uv: bool = True
        save_texture: bool = True
        texture_size: int = 1024
        texture_format: str = "jpg"
        xatlas_chart_options: dict = field(default_factory=dict)
        xatlas_pack_options: dict = field(default_factory=dict)
        context_type: str = "gl"

        def __post_init__(self) -> None:
            """What cannot be written is refused with the configuration, hours before the export."""
            if self.fmt not in FORMATS:
                raise UserError(
                    f"exporter.fmt={self.fmt}: unknown format; choices: {', '.join(FORMATS)}; "
                    "uni-instruct-mesh-exporter also writes glb"
                )
            if isinstance(self.texture_size, int) and self.texture_size < 1:
                raise UserError(f"exporter.texture_size={self.texture_size}; must be at least 1")
            if self.fmt == "obj-mtl" and self.save_texture and not self.save_uv:
                raise UserError("exporter.save_texture=true needs exporter.save_uv=true: a texture needs coordinates")

    cfg: Config

    def configure(self, geometry: BaseGeometry, material: BaseMaterial, background: BaseBackground) -> None:
        super().configure(geometry, material, background)
        writers = (self._obj_with_material, self._obj_with_vertex_colors)
        self._formats: dict[str, Callable[[Mesh], ExporterOutput]] = dict(zip(FORMATS, writers))
        self._textures: dict[str, Tensor] | None = None

    @torch.no_grad()
    def __call__(self) -> list[ExporterOutput]:
        """The mesh and what goes with it, for ``save_obj``.

        Raises:
            ValueError: the mesh is empty or not finite, or there is no surface.
        """
        mesh = self.geometry.isosurface()
        check_mesh(mesh)
        self._textures = None
        return [self._formats[self.cfg.fmt](mesh)]

    def _obj_with_material(self, mesh: Mesh) -> ExporterOutput:
        params: dict[str, Any] = {
            "mesh": mesh,
            "save_mat": True,
            "save_normal": self.cfg.save_normal,
            "save_uv": self.cfg.save_uv,
            "save_vertex_color": False,
            "map_format": self.cfg.texture_format,
        }
        if self.cfg.save_uv:
            self._unwrap(mesh)
        if self.cfg.save_texture:
            params |= self._baked(mesh)
        return ExporterOutput(f"{self.cfg.save_name}.obj", "obj", params)

    def _obj_with_vertex_colors(self, mesh: Mesh) -> ExporterOutput:
        self._color_vertices(mesh)
        params = {
            "mesh": mesh,
            "save_mat": False,
            "save_normal": self.cfg.save_normal,
            "save_uv": False,
            "save_vertex_color": mesh.v_rgb is not None,
        }
        return ExporterOutput(f"{self.cfg.save_name}.obj", "obj", params)

    def _unwrap(self, mesh: Mesh) -> None:
        if mesh.has_uv:
            return
        n_faces = len(mesh.t_pos_idx)
        if n_faces > SLOW_FACES:
            threestudio.warn(
                f"unwrapping {n_faces} faces takes minutes; a lower isosurface_resolution, or vertex colours "
                "(exporter.fmt=obj, or save_texture=false with glb) take seconds"
            )
        threestudio.info(f"unwrapping {n_faces} faces with xatlas")
        size = {"resolution": self.cfg.texture_size, "padding": 2, "bilinear": True}
        mesh.unwrap_uv(dict(self.cfg.xatlas_chart_options), {**size, **self.cfg.xatlas_pack_options})

    def _material_at(self, points: Tensor) -> dict[str, Tensor]:
        """Channels of the material at surface points [N, 3]."""

        def channels(points: Tensor) -> dict[str, Tensor]:
            return self.material.export(points=points, **self.geometry.export(points=points))

        return chunk_batch(channels, POINTS_AT_ONCE, points) if len(points) else {}

    def _baked(self, mesh: Mesh) -> dict[str, Tensor]:
        """Textures by saver argument; holes and margins carry the nearest texel's colour."""
        if self._textures is None:
            context = NVDiffRasterizerContext(self.cfg.context_type, get_device())
            threestudio.info(f"baking textures of {self.cfg.texture_size}² texels")
            channels, covered = bake(mesh, self.cfg.texture_size, self._material_at, context)
            self._textures = {MAPS[name]: padded(image, covered) for name, image in channels.items() if name in MAPS}
            if "map_Kd" not in self._textures:
                threestudio.warn(f"{type(self.material).__name__} exports no albedo; the mesh stays white")
        return self._textures

    def _color_vertices(self, mesh: Mesh) -> None:
        albedo = self._material_at(mesh.v_pos).get("albedo")
        if albedo is None:
            threestudio.warn(f"{type(self.material).__name__} exports no albedo; the vertices get no colour")
            return
        mesh.set_vertex_color(albedo[..., :3])
