"""Meshes as the bytes of .glb files, in memory: nothing is written here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

TO_GLTF = [1, 2, 0]
"""World axes for glTF's x, y, z: up is z here and y there, the front faces x here and z there (right-handed both)."""

LINEAR_COLOUR = "_COLOR"
"""Vertex colours on their way to a glTF file: trimesh's own have 8 bits, too few for dark colours in linear light."""


def to_trimesh(
    mesh: Any, map_Kd: Any = None, map_Pm: Any = None, map_Pr: Any = None, vertex_color: bool = False
) -> Any:
    """Mesh in glTF's axes (y up, front towards z) with a PBR material, as a trimesh.Trimesh.

    Args:
        map_Kd: albedo texture [S, S, 3] in 0 .. 1, sRGB. Vertices are doubled along the seams of the texture.
        map_Pm, map_Pr: metallic and roughness textures [S, S, 1] in 0 .. 1; without them metallic is 0, roughness 1.
        vertex_color: use the mesh's vertex colours (sRGB; the file wants linear ones).
    """
    import trimesh

    v_pos, v_nrm = _array(mesh.v_pos)[:, TO_GLTF], _array(mesh.v_nrm)[:, TO_GLTF]
    faces = mesh.t_pos_idx.cpu().numpy()
    material: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 1.0, "doubleSided": False}
    if map_Kd is None:
        visual = trimesh.visual.TextureVisuals(material=trimesh.visual.material.PBRMaterial(**material))
        result = trimesh.Trimesh(v_pos, faces, vertex_normals=v_nrm, visual=visual, process=False)
        if vertex_color:
            linear = _linear(_array(mesh.v_rgb))
            rgba = np.concatenate([linear, np.ones_like(linear[:, :1])], axis=1)
            result.vertex_attributes[LINEAR_COLOUR] = np.rint(65535 * rgba).astype(np.uint16)
        return result

    # One vertex per texture coordinate; each belongs to exactly one position.
    t_tex_idx = mesh.t_tex_idx.cpu().numpy()
    v_tex = _array(mesh.v_tex)
    position = np.zeros(len(v_tex), dtype=np.int64)
    position[t_tex_idx.reshape(-1)] = faces.reshape(-1)
    material["baseColorTexture"] = Image.fromarray(_uint8(_array(map_Kd)[..., :3]))
    if map_Pm is not None or map_Pr is not None:
        # glTF packs them into one image: green roughness, blue metallic.
        size = _array(map_Pm if map_Pm is not None else map_Pr).shape[:2]
        packed = np.zeros((*size, 3), dtype=np.float32)
        packed[..., 1] = 1.0 if map_Pr is None else _array(map_Pr).reshape(size)
        packed[..., 2] = 0.0 if map_Pm is None else _array(map_Pm).reshape(size)
        material |= {"metallicRoughnessTexture": Image.fromarray(_uint8(packed)), "metallicFactor": 1.0}
    # trimesh counts v upwards and turns it for the file.
    uv = np.stack([v_tex[:, 0], 1 - v_tex[:, 1]], axis=1)
    visual = trimesh.visual.TextureVisuals(uv=uv, material=trimesh.visual.material.PBRMaterial(**material))
    return trimesh.Trimesh(
        v_pos[position], t_tex_idx, vertex_normals=v_nrm[position], visual=visual, process=False
    )


def glb_bytes(mesh: Any, **appearance: Any) -> bytes:
    """glTF binary file of one mesh with normals; see :func:`to_trimesh`."""
    import trimesh

    scene = trimesh.Scene({"object": to_trimesh(mesh, **appearance)})
    return scene.export(file_type="glb", include_normals=True, tree_postprocessor=_name_colours)


def _name_colours(tree: dict[str, Any]) -> None:
    """Give 16-bit vertex colours the name that viewers look for."""
    for part in (part for mesh in tree["meshes"] for part in mesh["primitives"]):
        if LINEAR_COLOUR in part["attributes"]:
            part["attributes"]["COLOR_0"] = part["attributes"].pop(LINEAR_COLOUR)
            tree["accessors"][part["attributes"]["COLOR_0"]]["normalized"] = True


def _array(value: Any) -> np.ndarray:
    return value.detach().float().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _uint8(image: np.ndarray) -> np.ndarray:
    """0 .. 1 -> 0 .. 255, cut off as threestudio's own savers do."""
    return (image.clip(0, 1) * 255).astype(np.uint8)


def _linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB 0 .. 1 -> linear light (IEC 61966-2-1)."""
    srgb = srgb.clip(0, 1)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
