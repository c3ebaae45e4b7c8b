"""Meshes as the text of .obj and .mtl files, in memory: nothing is written here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from threestudio.utils.errors import UserError


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


def _array(value: Any) -> np.ndarray:
    return value.detach().float().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _rows(keyword: str, values: np.ndarray) -> str:
    line = keyword + " %.9g" * values.shape[1] + "\n"
    return (line * len(values)) % tuple(values.reshape(-1).tolist())
