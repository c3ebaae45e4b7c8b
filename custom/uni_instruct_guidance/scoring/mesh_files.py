"""What a mesh file refers to, looked at before it is loaded: readers pass over what is missing without a word."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from PIL import Image

from .frames import UNREADABLE

# Geometry that trimesh cannot decode alone; it would come out as zeros.
COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression")


def check_files(path: Path) -> int:
    """How many placed parts of the file must come out with a texture, as far as that can be said before loading.

    Raises:
        ValueError: one line naming the file: truncated or compressed, or a material file or picture that is missing or
            broken.
    """
    check = CHECKS.get(path.suffix.lower())
    return 0 if check is None else check(path)


def _check_obj(path: Path) -> int:
    """Every material file and colour map that an .obj refers to is there and is a picture; the parts are not counted
    (0), since trimesh joins them by material."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("mtllib "):
            continue
        library = path.parent / line.removeprefix("mtllib ").strip()
        if not library.is_file():
            raise ValueError(f"{path}: its material file {library.name} is missing")
        for entry in library.read_text(encoding="utf-8", errors="replace").splitlines():
            keyword, _, name = entry.strip().partition(" ")
            if keyword.lower() == "map_kd":
                _check_picture(path, library.parent / name.strip())
    return 0


def _check_picture(mesh: Path, picture: Path) -> None:
    if not picture.is_file():
        raise ValueError(f"{mesh}: its texture {picture.name} is missing")
    try:
        with Image.open(picture) as image:
            image.load()
    except UNREADABLE as error:
        raise ValueError(f"{mesh}: its texture {picture.name} cannot be read: {error}") from error


def _check_gltf(path: Path) -> int:
    """Refuse truncated and compressed files and missing pictures; returns how many placed parts have a texture."""
    header = _gltf_header(path)
    try:
        return _check_gltf_header(path, header)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: cannot be read as glTF: its header is damaged ({error!r})") from error


def _check_gltf_header(path: Path, header: dict) -> int:
    needs = [name for name in header.get("extensionsRequired", []) if name in COMPRESSED]
    if needs:
        raise ValueError(f"{path}: its geometry is compressed ({', '.join(needs)}); save it without compression first")
    for picture in header.get("images", []):
        uri = picture.get("uri", "data:")
        if not uri.startswith("data:"):
            _check_picture(path, path.parent / uri)
    materials = header.get("materials", [])
    textured = [
        sum(
            "baseColorTexture" in materials[part["material"]].get("pbrMetallicRoughness", {})
            for part in mesh.get("primitives", [])
            if "material" in part and "TEXCOORD_0" in part.get("attributes", {})
        )
        for mesh in header.get("meshes", [])
    ]
    return sum(textured[node["mesh"]] for node in header.get("nodes", []) if "mesh" in node)


def _gltf_header(path: Path) -> dict:
    """The JSON of a glTF file, of a .glb its first chunk."""
    content = path.read_bytes()
    try:
        if path.suffix.lower() == ".gltf":
            return json.loads(content)
        magic, _, total, size = struct.unpack_from("<4sIII", content)
        if magic != b"glTF":
            raise ValueError("no glTF file")
        if total != len(content):
            raise ValueError(f"{len(content)} bytes, its header promises {total}: truncated")
        return json.loads(content[20 : 20 + size])
    except (ValueError, struct.error, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as glTF: {error}") from error


#: Suffix -> check.
CHECKS = {".obj": _check_obj, ".glb": _check_gltf, ".gltf": _check_gltf}
