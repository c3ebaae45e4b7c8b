"""Mesh files as coloured triangles in the world's axes: textures, vertex colours or plain materials, nothing lost
silently.

Colours are sRGB albedo. Transparency, metalness and normal maps are left alone: a score looks at colour and shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .mesh_files import check_files

# Which axis points up in files of each format: glTF says y; this project's .obj keep the world's z.
UP_AXES = {".glb": "y", ".gltf": "y", ".obj": "z", ".ply": "z"}
# File axes that become the world's x, y, z: with y up the front faces z there and x here.
TO_WORLD = {"y": [2, 0, 1], "z": [0, 1, 2]}
GLTF = (".glb", ".gltf")
# A file without any colour is shown in this grey.
COLOURLESS = 0.7


@dataclass(frozen=True)
class Surface:
    """Triangles with colour.

    vertices: [V, 3] world axes (z up, front towards +x). faces: [F, 3]. rgb: [V, 3] sRGB in 0..1; of a textured face
    it multiplies the texture. uv: [V, 2] in texture widths and heights from the upper left corner. texture: [F] index
    into `textures`, −1 for none. textures: images [H, W, 3] in 0..1, sRGB. has_colour: False where the file has none.
    """

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    rgb: Float[Tensor, "V 3"]
    uv: Float[Tensor, "V 2"]
    texture: Int[Tensor, "F"]
    textures: tuple[Float[Tensor, "H W 3"], ...] = ()
    has_colour: bool = True

    def to(self, device: str | torch.device) -> Surface:
        """The same on another device."""
        tensors = (x.to(device) for x in (self.vertices, self.faces, self.rgb, self.uv, self.texture))
        return Surface(*tensors, tuple(x.to(device) for x in self.textures), self.has_colour)


def _said(path: Path) -> str | None:
    """The up axis that an .obj file of this project names in its first line, for example ``# up: y``."""
    if path.suffix.lower() != ".obj":
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        first = file.readline().strip()
    return first.removeprefix("# up: ") if first in [f"# up: {axis}" for axis in TO_WORLD] else None


def coloured(vertices: Any, faces: Any, rgb: Any) -> Surface:
    """A surface from vertices [V, 3] in world axes, faces [F, 3] and vertex colours [V, 3] (sRGB), arrays or tensors.

    Raises:
        ValueError: no faces.
    """
    vertices, rgb = (torch.as_tensor(np.asarray(x), dtype=torch.float32) for x in (vertices, rgb))
    faces = torch.as_tensor(np.asarray(faces), dtype=torch.int64).reshape(-1, 3)
    return _checked(
        Surface(vertices, faces, rgb, torch.zeros(len(vertices), 2), torch.full((len(faces),), -1)), "the mesh"
    )


def load_mesh(path: str | Path, up: str | None = None) -> Surface:
    """Read .glb, .gltf, .obj (with .mtl) or .ply.

    up: `y` or `z`, the file's up axis; by default that of its format (see UP_AXES).

    Raises:
        ValueError: one line naming the file: missing, unreadable, truncated, compressed, empty, not finite, or with a
            material file or texture that is missing or broken.
    """
    import trimesh

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in UP_AXES:
        raise ValueError(f"{path}: cannot read {suffix or 'a file without suffix'}; choose one of {', '.join(UP_AXES)}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if up not in (None, *TO_WORLD):
        raise ValueError(f"up={up!r} is not known; choose one of {', '.join(TO_WORLD)}")
    n_textured = check_files(path)
    try:
        scene = trimesh.load_scene(path, process=False)
    except Exception as error:  # trimesh's readers raise whatever the broken place of the file leads to
        raise ValueError(f"{path}: cannot be read as a mesh: {type(error).__name__}: {error}") from error
    found = [
        (geometry, transform)
        for geometry, transform in _placed(scene)
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces)
    ]
    if not found:
        raise ValueError(f"{path}: the mesh is empty: no faces")
    axes = TO_WORLD[up or _said(path) or UP_AXES[suffix]]
    try:
        surface = _joined([_part(geometry, transform, axes, suffix in GLTF) for geometry, transform in found])
    except (OSError, SyntaxError) as error:  # PIL reads pictures when they are first used
        raise ValueError(f"{path}: a texture cannot be read: {error}") from error
    if len(surface.textures) < n_textured:
        raise ValueError(
            f"{path}: {n_textured - len(surface.textures)} of {n_textured} textured parts have lost their texture; "
            f"the picture in the file is missing or broken"
        )
    return _checked(surface, str(path))


def _placed(scene: Any) -> Iterator[tuple[Any, np.ndarray]]:
    """Every geometry of a scene with the matrix that places it."""
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        yield scene.geometry[name], transform


def _part(geometry: Any, transform: np.ndarray, axes: list[int], linear_colours: bool) -> Surface:
    vertices = np.asarray(geometry.vertices) @ transform[:3, :3].T + transform[:3, 3]
    n, visual = len(vertices), geometry.visual
    faces = torch.from_numpy(np.asarray(geometry.faces, dtype=np.int64))
    rgb, uv, picture, has_colour = np.full((n, 3), COLOURLESS), np.zeros((n, 2)), None, True
    if visual.kind == "texture":
        picture, factor, has_colour = _material(visual.material, linear_colours)
        rgb = np.broadcast_to(factor, (n, 3))
        if visual.uv is None:
            picture = None
        else:
            uv = np.asarray(visual.uv)[:, :2] * [1, -1] + [0, 1]
        painted = visual.vertex_attributes.get("color") if hasattr(visual, "vertex_attributes") else None
        if painted is not None:
            rgb, has_colour = rgb * _unit(painted, linear_colours), True
    elif visual.defined:
        rgb = _unit(visual.vertex_colors, linear_colours)
    else:
        has_colour = False
    return Surface(
        torch.from_numpy(vertices[:, axes].astype(np.float32)),
        faces,
        torch.from_numpy(np.array(rgb, dtype=np.float32)),
        torch.from_numpy(uv.astype(np.float32)),
        torch.full((len(faces),), -1 if picture is None else 0),
        () if picture is None else (torch.from_numpy(picture),),
        has_colour,
    )


def _material(material: Any, linear: bool) -> tuple[np.ndarray | None, np.ndarray, bool]:
    """Texture (or None), sRGB factor [3], and whether the material says any colour.

    glTF multiplies texture and factor (linear light); of an .mtl the map replaces `Kd`.
    """
    picture = getattr(material, "baseColorTexture", None) if linear else getattr(material, "image", None)
    factor = getattr(material, "baseColorFactor", None) if linear else material.diffuse
    if picture is not None:
        picture = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    if factor is None or (picture is not None and not linear):
        return picture, np.ones(3), picture is not None or linear
    return picture, _unit(np.asarray(factor)[None], linear)[0], True


def _unit(colours: Any, linear: bool) -> np.ndarray:
    """Colours [..., 3] in 0..1, sRGB, from 8-bit or float ones that may be linear light."""
    colours = np.asarray(colours)[..., :3]
    if np.issubdtype(colours.dtype, np.integer):
        colours = colours / np.iinfo(colours.dtype).max
    if not linear:
        return colours
    # IEC 61966-2-1
    low = colours <= 0.0031308
    return np.where(low, 12.92 * colours, 1.055 * np.maximum(colours, 1e-9) ** (1 / 2.4) - 0.055)


def _joined(parts: list[Surface]) -> Surface:
    """One surface from several; each keeps its own textures."""
    n_vertices = np.cumsum([0, *(len(part.vertices) for part in parts)])
    n_textures = np.cumsum([0, *(len(part.textures) for part in parts)])
    texture = [
        torch.where(part.texture < 0, part.texture, part.texture + int(first)) for part, first in zip(parts, n_textures)
    ]
    return Surface(
        torch.cat([part.vertices for part in parts]),
        torch.cat([part.faces + int(first) for part, first in zip(parts, n_vertices)]),
        torch.cat([part.rgb for part in parts]),
        torch.cat([part.uv for part in parts]),
        torch.cat(texture),
        tuple(picture for part in parts for picture in part.textures),
        any(part.has_colour for part in parts),
    )


def _checked(surface: Surface, name: str) -> Surface:
    """Refuse what no camera could show."""
    if len(surface.faces) == 0:
        raise ValueError(f"{name}: the mesh is empty: no faces")
    if len(surface.rgb) != len(surface.vertices):
        raise ValueError(f"{name}: {len(surface.rgb)} vertex colours for {len(surface.vertices)} vertices")
    if surface.faces.min() < 0 or surface.faces.max() >= len(surface.vertices):
        raise ValueError(f"{name}: faces refer to vertices that are not there (0..{len(surface.vertices) - 1})")
    used = surface.vertices[surface.faces.unique()]
    if not used.isfinite().all():
        raise ValueError(f"{name}: {int((~used.isfinite()).any(-1).sum())} vertices are not finite")
    if (used.max(0).values - used.min(0).values).max() <= 0:
        raise ValueError(f"{name}: the mesh is empty: all vertices lie in one point")
    return surface
