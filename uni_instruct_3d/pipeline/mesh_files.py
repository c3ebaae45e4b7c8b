"""The mesh of a finished stage as files: simplified, named after the prompt, in every format that was asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

import threestudio
from threestudio.models.mesh import Mesh
from threestudio.utils.mesh_files import check_mesh

from .settings import Files

#: World axes (z up, front x) of a file whose y points up and whose front is z, as glTF has it.
Y_UP = [1, 2, 0]
#: glTF's axes as the world's.
TO_WORLD = [2, 0, 1]


class Surface:
    """Geometry whose surface is made once, with at most `faces` triangles; colours are the geometry's own."""

    def __init__(self, geometry: Any, faces: int | None) -> None:
        self.geometry, self.mesh = geometry, geometry.isosurface()
        self.bbox = geometry.bbox  # exporters ask where it lies, and on which device
        check_mesh(self.mesh)
        if faces is not None and faces < len(self.mesh.t_pos_idx):
            self.mesh = simplified(self.mesh, faces)

    def isosurface(self) -> Mesh:
        """The same mesh every time, so that it is unwrapped once."""
        return self.mesh

    def export(self, points: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        """What the geometry knows at points [N, 3]."""
        return self.geometry.export(points=points, **kwargs)


def simplified(mesh: Mesh, faces: int) -> Mesh:
    """With at most about `faces` triangles, by quadric edge collapse (Garland and Heckbert 1997)."""
    import fast_simplification

    vertices, triangles = mesh.v_pos.detach().cpu().numpy(), mesh.t_pos_idx.cpu().numpy()
    vertices, triangles = fast_simplification.simplify(
        vertices.astype(np.float32), triangles.astype(np.int32), target_count=faces
    )
    device = mesh.v_pos.device
    return Mesh(torch.from_numpy(vertices).to(device), torch.from_numpy(triangles.astype(np.int64)).to(device))


def write_mesh_files(scene: Any, exporter: dict[str, Any], files: Files, name: str, folder: Path) -> list[Path]:
    """Write ``model.glb`` and what else was asked for into `folder`, each file whole or not at all.

    Args:
        scene: system of a finished stage. exporter: the stage's block of that name. name: of object and material.

    Raises:
        ValueError: the mesh is empty or not finite; a key of `exporter` that is unknown.
    """
    textured = exporter.get("save_texture", True)
    formats = ["glb", *(["obj-mtl" if textured else "obj"] if "obj" in files.formats else [])]
    settings = {**exporter, "fmt": ",".join(formats), "save_name": "model"}
    if files.texture_size is not None:
        settings["texture_size"] = files.texture_size
    surface = Surface(scene.geometry, files.faces)
    parts = {"geometry": surface, "material": scene.material, "background": scene.background}
    scratch = folder / f".files.{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir()
        scene.set_save_dir(str(scratch))
        for output in threestudio.find("uni-instruct-mesh-exporter")(settings, **parts)():
            getattr(scene, f"save_{output.save_type}")(output.save_name, **output.params)
        name_glb(scratch / "model.glb", name)
        for path in (scratch / "model.obj", scratch / "model.mtl"):
            if path.is_file():
                path.write_text(named(path.read_text(), name))
        if "obj" in files.formats and files.up == "y":
            path = scratch / "model.obj"
            path.write_text(turned(path.read_text()))
        for suffix in {"ply", "stl"} & set(files.formats):
            convert(scratch / "model.glb", scratch / f"model.{suffix}")
        written = sorted(path for path in scratch.iterdir() if path.is_file())
        return [Path(os.replace(path, folder / path.name) or folder / path.name) for path in written]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def named(text: str, name: str) -> str:
    """Text of an .obj or .mtl file with object and material called `name`."""
    text = re.sub(r"^(usemtl|newmtl) .*$", rf"\1 {name}", text, flags=re.M)
    text = re.sub(r"^g object$", f"o {name}", text, flags=re.M)
    return text if re.search(r"^(o|newmtl) ", text, flags=re.M) else f"o {name}\n{text}"


def turned(text: str) -> str:
    """Text of an .obj file in the world's axes (z up, front x) with y up and the front towards z."""

    def line(found: re.Match) -> str:
        numbers = found.group(2).split()
        return " ".join([found.group(1), *(numbers[axis] for axis in Y_UP), *numbers[3:]])

    return "# up: y\n" + re.sub(r"^(vn?) (.*)$", line, text, flags=re.M)


def name_glb(path: Path, name: str) -> None:
    """Call the mesh, its node and its material `name`."""
    data = path.read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    tree = json.loads(data[20 : 20 + length])
    for part in [*tree.get("meshes", []), *tree.get("materials", [])]:
        part["name"] = name
    for node in tree.get("nodes", []):
        if "mesh" in node:
            node["name"] = name
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    header = struct.pack("<4sII", b"glTF", 2, 20 + len(text) + len(rest)) + struct.pack("<I4s", len(text), b"JSON")
    path.write_bytes(header + text + rest)


def convert(glb: Path, path: Path) -> None:
    """As .ply (vertex colours) or .stl (shape alone), z up."""
    import trimesh

    mesh = trimesh.load(glb, force="mesh", process=False)
    if getattr(mesh.visual, "kind", None) == "texture":
        mesh.visual = mesh.visual.to_color()
    mesh.vertices = mesh.vertices[:, TO_WORLD]
    mesh.export(path)
