"""Triangle mesh with what geometry refinement, rendering and export need, each computed when first asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from threestudio.utils.errors import SpecificationError, UserError
from threestudio.utils.logging import debug


class Mesh:
    """Vertices and faces; everything derived is differentiable in the vertices.

    Args:
        v_pos: [Nv, 3] positions.
        t_pos_idx: [Nf, 3] faces, wound outwards.
        extras: anything else worth keeping with the mesh, see ``extras``.
    """

    def __init__(self, v_pos: Float[Tensor, "Nv 3"], t_pos_idx: Integer[Tensor, "Nf 3"], **extras: Any) -> None:
        self.v_pos = v_pos
        self.t_pos_idx = t_pos_idx
        self._v_nrm: Tensor | None = None
        self._v_tng: Tensor | None = None
        self._v_tex: Tensor | None = None
        self._t_tex_idx: Tensor | None = None
        self._v_rgb: Tensor | None = None
        self._edges: Tensor | None = None
        self.extras: dict[str, Any] = dict(extras)

    def add_extra(self, k: str, v: Any) -> None:
        """Keep ``v`` with the mesh as ``extras[k]``."""
        self.extras[k] = v

    @property
    def requires_grad(self) -> bool:
        """Do the positions take part in training?"""
        return self.v_pos.requires_grad

    @property
    def v_nrm(self) -> Float[Tensor, "Nv 3"]:
        """Unit normals, the faces around a vertex weighted by area."""
        if self._v_nrm is None:
            self._v_nrm = self._compute_vertex_normal()
        return self._v_nrm

    @property
    def v_tng(self) -> Float[Tensor, "Nv 3"]:
        """Unit tangents along increasing u, orthogonal to the normals; unwraps the mesh when that was not done."""
        if self._v_tng is None:
            self._v_tng = self._compute_vertex_tangent()
        return self._v_tng

    @property
    def has_uv(self) -> bool:
        """Are there texture coordinates already?"""
        return self._v_tex is not None

    @property
    def v_tex(self) -> Float[Tensor, "Nt 2"]:
        """Texture coordinates in [0, 1]; unwraps the mesh when that was not done."""
        if self._v_tex is None:
            self.unwrap_uv()
        return self._v_tex

    @property
    def t_tex_idx(self) -> Integer[Tensor, "Nf 3"]:
        """Faces in terms of texture coordinates; unwraps the mesh when that was not done."""
        if self._t_tex_idx is None:
            self.unwrap_uv()
        return self._t_tex_idx

    @property
    def v_rgb(self) -> Float[Tensor, "Nv 3"] | None:
        """Vertex colours, if set."""
        return self._v_rgb

    @property
    def edges(self) -> Integer[Tensor, "Ne 2"]:
        """Unique edges, lower index first, sorted."""
        if self._edges is None:
            ends = self.t_pos_idx[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).long()
            n = max(len(self.v_pos), 1)
            # one number for both ends: rows are sorted twenty times as slowly
            pairs = torch.unique(ends.amin(dim=-1) * n + ends.amax(dim=-1))
            edges = torch.stack([pairs.div(n, rounding_mode="floor"), pairs % n], dim=-1)
            self._edges = edges.to(self.t_pos_idx.dtype)
        return self._edges

    def set_vertex_color(self, v_rgb: Float[Tensor, "Nv 3"]) -> None:
        """Give every vertex a colour.

        Raises:
            AssertionError: not one colour per vertex.
        """
        if len(v_rgb) != len(self.v_pos):
            raise SpecificationError(f"{len(v_rgb)} vertex colours for {len(self.v_pos)} vertices")
        self._v_rgb = v_rgb

    def set_uv(self, v_tex: Float[Tensor, "Nt 2"], t_tex_idx: Integer[Tensor, "Nf 3"]) -> None:
        """Use these texture coordinates instead of unwrapping."""
        if t_tex_idx.shape != self.t_pos_idx.shape:
            raise SpecificationError(f"{len(t_tex_idx)} texture faces for {len(self.t_pos_idx)} faces")
        self._v_tex, self._t_tex_idx, self._v_tng = v_tex, t_tex_idx, None

    def remove_outlier(self, outlier_n_faces_threshold: int | float) -> Mesh:
        """The mesh without its small components, in which faces hang together by shared edges.

        Args:
            outlier_n_faces_threshold: a component stays if it has at least this many faces; a float is a share of
                the largest component's faces.

        Returns:
            a new mesh with the same ``extras``, or this very mesh while it requires gradients.
        """
        if self.requires_grad:
            debug("outliers stay while the mesh requires gradients")
            return self
        # Imported here: trimesh takes half a second.
        import trimesh

        faces = self.t_pos_idx.detach().cpu().numpy()
        adjacency = trimesh.graph.face_adjacency(faces)
        component = trimesh.graph.connected_component_labels(adjacency, node_count=len(faces))
        n_faces = np.bincount(component, minlength=1)
        threshold = outlier_n_faces_threshold
        if isinstance(threshold, float):
            threshold = int(n_faces.max() * threshold)
        stays = torch.from_numpy((n_faces >= threshold)[component]).to(self.t_pos_idx.device)
        removed = int((n_faces < threshold).sum())
        if removed:
            debug(f"removed {removed} of {len(n_faces)} components with fewer than {threshold} faces")
        used, t_pos_idx = torch.unique(self.t_pos_idx[stays], return_inverse=True)
        return Mesh(self.v_pos[used], t_pos_idx, **self.extras)

    def unwrap_uv(self, xatlas_chart_options: dict | None = None, xatlas_pack_options: dict | None = None) -> None:
        """Make texture coordinates with xatlas, on the CPU and without gradients.

        Args:
            xatlas_chart_options, xatlas_pack_options: attributes of xatlas's ChartOptions and PackOptions.
        """
        import xatlas

        atlas = xatlas.Atlas()
        faces = self.t_pos_idx.detach().cpu().numpy().astype(np.uint32)
        atlas.add_mesh(self.v_pos.detach().cpu().float().numpy(), faces)
        atlas.generate(
            _with_options(xatlas.ChartOptions(), xatlas_chart_options, "xatlas_chart_options"),
            _with_options(xatlas.PackOptions(), xatlas_pack_options, "xatlas_pack_options"),
        )
        _, t_tex_idx, v_tex = atlas[0]
        self.set_uv(
            torch.from_numpy(v_tex.astype(np.float32)).to(self.v_pos.device),
            torch.from_numpy(t_tex_idx.astype(np.int64)).to(self.v_pos.device),
        )

    def normal_consistency(self) -> Float[Tensor, ""]:
        """Mean of 1 - cosine between the vertex normals at the two ends of an edge."""
        a, b = self.v_nrm[self.edges].unbind(1)
        return (1.0 - F.cosine_similarity(a, b, dim=-1)).mean()

    def laplacian(self) -> Float[Tensor, ""]:
        """Mean norm of the uniform graph Laplacian: degree(v) v - sum of v's neighbours, not divided by the degree."""
        a, b = self.edges.unbind(1)
        difference = self.v_pos.index_select(0, a) - self.v_pos.index_select(0, b)
        rows = torch.zeros_like(self.v_pos).index_add(0, a, difference).index_add(0, b, -difference)
        return rows.norm(dim=-1).mean()

    def _compute_vertex_normal(self) -> Tensor:
        a, b, c = (self.v_pos.index_select(0, i) for i in self.t_pos_idx.unbind(1))
        face_normal = torch.linalg.cross(b - a, c - a, dim=-1)  # length: twice the area
        total = torch.zeros_like(self.v_pos)
        for i in self.t_pos_idx.unbind(1):
            total = total.index_add(0, i, face_normal)
        # Degenerate faces have no normal: choose one, without a gradient.
        up = total.new_tensor([0.0, 0.0, 1.0])
        return F.normalize(torch.where(total.square().sum(-1, keepdim=True) > 1e-20, total, up), dim=-1)

    def _compute_vertex_tangent(self) -> Tensor:
        # Per face, the direction in space along which u grows and v stands still.
        p0, p1, p2 = (self.v_pos[i] for i in self.t_pos_idx.unbind(1))
        t0, t1, t2 = (self.v_tex[i] for i in self.t_tex_idx.unbind(1))
        (u1, v1), (u2, v2) = (t1 - t0).unbind(-1), (t2 - t0).unbind(-1)
        area = u1 * v2 - v1 * u2
        area = torch.where(area > 0, area.clamp(min=1e-6), area.clamp(max=-1e-6))
        along_u = ((p1 - p0) * v2[:, None] - (p2 - p0) * v1[:, None]) / area[:, None]
        total = torch.zeros_like(self.v_pos)
        for i in self.t_pos_idx.unbind(1):
            total = total.index_add(0, i, along_u)
        tangent = F.normalize(total, dim=-1)
        return F.normalize(tangent - (tangent * self.v_nrm).sum(-1, keepdim=True) * self.v_nrm, dim=-1)


def _with_options(target: Any, options: dict | None, key: str) -> Any:
    for name, value in (options or {}).items():
        if not hasattr(target, name):
            choices = ", ".join(n for n in dir(target) if not n.startswith("_"))
            raise UserError(f"{key}: unknown option '{name}'; choices: {choices}")
        setattr(target, name, value)
    return target
