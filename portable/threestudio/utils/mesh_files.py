"""Meshes as the text of .obj and .mtl files and the bytes of .glb files, in memory: nothing is written here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from threestudio.utils.errors import UserError
from threestudio.utils.images import to_uint8

TO_GLTF = [1, 2, 0]
"""World axes for glTF's x, y, z: up is z here and y there, the front faces x here and z there (right-handed both)."""

LINEAR_COLOUR = "_COLOR"
"""Vertex colours on their way to a glTF file: trimesh's own have 8 bits, too few for dark colours in linear light."""


def check_mesh(mesh: Any) -> None:
    """Refuse what no program could load.

    Raises:
        ValueError: no faces, or positions that are not finite.
    """
    if len(mesh.v_pos) == 0 or len(mesh.t_pos_idx) == 0:
        raise UserError(
            "nothing to export: the mesh is empty; choose another geometry.isosurface_threshold (auto finds one), or "
            "train longer"
        )
    broken = int((~torch.isfinite(mesh.v_pos)).any(-1).sum())
    if broken:
        raise UserError(f"nothing exported: {broken} of {len(mesh.v_pos)} vertices are not finite; training diverged")


def obj_text(
    mesh: Any,
    material_file: str | None = None,
    normal: bool = False,
    uv: bool = False,
    vertex_color: bool = False,
) -> str:
    """Wavefront .obj text in world coordinates (z up), 9 digits: float32 comes back exactly.

    Args:
        material_file: name of the .mtl file to refer to.
        normal: vertex normals. uv: texture coordinates, v from bottom to top as the format wants.
        vertex_color: r g b after each position.
    """
    header = "" if material_file is None else f"mtllib {material_file}\ng object\nusemtl default\n"
    v = _array(mesh.v_pos)
    if vertex_color:
        v = np.concatenate([v, _array(mesh.v_rgb)], axis=1)
    parts = [header, _rows("v", v)]
    position = mesh.t_pos_idx.cpu().numpy() + 1
    corner = [position.astype(str)]
    if normal:
        parts.append(_rows("vn", _array(mesh.v_nrm)))
    if uv:
        v_tex = _array(mesh.v_tex)
        parts.append(_rows("vt", np.stack([v_tex[:, 0], 1 - v_tex[:, 1]], axis=1)))
    texture = (mesh.t_tex_idx.cpu().numpy() + 1).astype(str) if uv else np.full(position.shape, "")
    corner += [texture, position.astype(str) if normal else np.full(position.shape, "")]
    corners = np.char.add(np.char.add(np.char.add(np.char.add(corner[0], "/"), corner[1]), "/"), corner[2])
    parts.append("".join(f"f {a} {b} {c}\n" for a, b, c in corners.tolist()))
    return "".join(parts)


def mtl_text(maps: dict[str, str]) -> str:
    """Wavefront .mtl text of the material ``default``; maps: keyword (``map_Kd``…) -> file name."""
    lines = ["newmtl default", "Ka 0.0 0.0 0.0"]
    for keyword, constant in (("Kd", "1.0 1.0 1.0"), ("Ks", "0.0 0.0 0.0")):
        lines.append(f"map_{keyword} {maps[f'map_{keyword}']}" if f"map_{keyword}" in maps else f"{keyword} {constant}")
    lines += [f"{key} {maps[key]}" for key in ("map_Bump", "map_Pm", "map_Pr") if key in maps]
    return "\n".join(lines) + "\n"


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
    material["baseColorTexture"] = Image.fromarray(to_uint8(_array(map_Kd)[..., :3]))
    if map_Pm is not None or map_Pr is not None:
        # glTF packs them into one image: green roughness, blue metallic.
        size = _array(map_Pm if map_Pm is not None else map_Pr).shape[:2]
        packed = np.zeros((*size, 3), dtype=np.float32)
        packed[..., 1] = 1.0 if map_Pr is None else _array(map_Pr).reshape(size)
        packed[..., 2] = 0.0 if map_Pm is None else _array(map_Pm).reshape(size)
        material |= {"metallicRoughnessTexture": Image.fromarray(to_uint8(packed)), "metallicFactor": 1.0}
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


def _rows(keyword: str, values: np.ndarray) -> str:
    line = keyword + " %.9g" * values.shape[1] + "\n"
    return (line * len(values)) % tuple(values.reshape(-1).tolist())


def _linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB 0 .. 1 -> linear light (IEC 61966-2-1)."""
    srgb = srgb.clip(0, 1)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
