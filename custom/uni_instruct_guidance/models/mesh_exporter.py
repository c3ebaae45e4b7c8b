"""Meshes as glTF binary files beside threestudio's own formats, in either host."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

import threestudio
from threestudio.models.exporters.base import Exporter, ExporterOutput
from threestudio.models.exporters.mesh_exporter import MeshExporter

from .glb import glb_bytes

#: ``fmt`` -> what the file holds. ``glb`` is made here, the others by the host's ``mesh-exporter``.
FORMATS = {
    "glb": "glTF binary: textures inside, or vertex colours with save_texture: false",
    "obj-mtl": "Wavefront with material and textures",
    "obj": "Wavefront with vertex colours",
}
#: What of an .obj file's parts a .glb file takes.
GLB_MAPS = ("map_Kd", "map_Pm", "map_Pr")
#: How Python's and torch's complaints begin when threestudio proper takes the largest of no parts.
OF_NOTHING = ("max()", "amin()", "amax()")


def _names(fmt: str) -> list[str]:
    return [name.strip() for name in str(fmt).split(",")]


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory:
    """Where files wait for the host to copy them; gone when the process ends."""
    return tempfile.TemporaryDirectory(prefix="uni_instruct_")


@threestudio.register("uni-instruct-mesh-exporter")
class UniInstructMeshExporter(Exporter):
    """The host's ``mesh-exporter`` with ``glb``, and several formats at once.

    Args of :class:`Config`: the host's, with
        fmt: keys of :data:`FORMATS` joined by commas; textured formats share one unwrapping and one set of textures.
    """

    @dataclass
    class Config(MeshExporter.Config):
        fmt: str = "glb"

        def __post_init__(self) -> None:
            """What cannot be written is refused with the configuration, hours before the export."""
            wanted = _names(self.fmt)
            for name in wanted:
                if name not in FORMATS:
                    raise ValueError(
                        f"exporter.fmt={self.fmt}: unknown format '{name}'; choices: {', '.join(FORMATS)}"
                    )
            if {"obj", "obj-mtl"} <= set(wanted):
                raise ValueError(f"exporter.fmt={self.fmt}: obj and obj-mtl would write the same file; choose one")
            if "obj-mtl" in wanted and self.save_texture and not self.save_uv:
                raise ValueError("exporter.save_texture=true needs exporter.save_uv=true: a texture needs coordinates")

    cfg: Config

    def configure(self, geometry, material, background) -> None:
        super().configure(geometry, material, background)
        self.formats = _names(self.cfg.fmt)
        self._host_output: dict[tuple, ExporterOutput] = {}
        # a shape alone, as Fantasia3D's first run makes it, has nothing that a material could colour
        self.coloured = bool(geometry.export(points=torch.zeros(1, 3, device=geometry.bbox.device)))

    @torch.no_grad()
    def __call__(self) -> list[ExporterOutput]:
        """One output per format.

        Raises:
            ValueError: the mesh is empty or not finite, or there is no surface.
        """
        self._host_output = {}
        return [self._glb() if name == "glb" else self._by_host(name) for name in self.formats]

    def _by_host(self, fmt: str, **changes) -> ExporterOutput:
        """What the host's exporter makes of this format, once for the same settings."""
        if not self.coloured:
            changes["save_texture"] = False
        key = (fmt, *sorted(changes.items()))
        if key not in self._host_output:
            cfg = {**self.cfg, "fmt": fmt, **changes}
            parts = {"geometry": self.geometry, "material": self.material, "background": self.background}
            try:
                (self._host_output[key],) = MeshExporter(cfg, **parts)()
            except (ValueError, RuntimeError, IndexError) as error:
                if not str(error).startswith(OF_NOTHING):
                    raise
                level = getattr(self.geometry.cfg, "isosurface_threshold", 0.0)
                raise ValueError(
                    f"there is no surface to export: nothing reaches system.geometry.isosurface_threshold={level}; "
                    "train longer, or choose a lower one, or auto"
                ) from error
        return self._host_output[key]

    def _glb(self) -> ExporterOutput:
        if self.cfg.save_texture:
            parts = self._by_host("obj-mtl", **({} if self.cfg.save_uv else {"save_uv": True})).params
        else:
            parts = self._by_host("obj", save_uv=False, save_texture=True).params
        mesh = parts["mesh"]
        appearance = {name: parts.get(name) for name in GLB_MAPS if parts.get(name) is not None}
        if not self.cfg.save_texture:
            appearance["vertex_color"] = bool(parts["save_vertex_color"])
        # hosts know how to keep files, threestudio proper knows no .glb: so it gets one to keep
        path = Path(tempfile.mkdtemp(dir=_scratch().name)) / f"{self.cfg.save_name}.glb"
        path.write_bytes(glb_bytes(mesh, **appearance))
        return ExporterOutput(save_name=path.name, save_type="file", params={"src_path": str(path)})
