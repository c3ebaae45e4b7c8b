"""rasterize and interpolate: what nvdiffrast's functions of these names compute, in differentiable torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .visibility import visible_triangles


@dataclass(frozen=True)
class RasterizeTorchContext:
    """Stands where nvdiffrast wants a context. Holds no GPU memory, so one may be shared or made per call.

    Args:
        output_db: False skips the image-space derivatives of the barycentrics (``rast_db`` is then empty).
        mode, device: accepted for nvdiffrast's signature; the tensors' own device is used.
    """

    output_db: bool = True
    mode: str = "automatic"
    device: object = None


class RasterizeGLContext(RasterizeTorchContext):
    """Name kept for drop-in use; no OpenGL is involved."""


class RasterizeCudaContext(RasterizeTorchContext):
    """Name kept for drop-in use; no CUDA is involved. Takes only ``device``, as nvdiffrast's does."""

    def __init__(self, device: object = None):
        super().__init__(device=device)


def rasterize(
    glctx: RasterizeTorchContext,
    pos: Tensor,
    tri: Tensor,
    resolution: tuple[int, int] | list[int],
    ranges: Tensor | None = None,
    grad_db: bool = True,
) -> tuple[Tensor, Tensor]:
    """Nearest triangle, perspective-correct barycentrics and depth for every pixel of every view.

    Args:
        glctx: a context (see RasterizeTorchContext).
        pos: [B, V, 4] clip-space positions, or [V, 4] together with ``ranges``. Float32 or float64.
        tri: [F, 3] integer vertex indices shared by the views.
        resolution: (height, width) in pixels; row 0 is y = -1.
        ranges: [B, 2] first triangle and number of triangles per view, for ``pos`` of shape [V, 4].
        grad_db: let gradients of the derivatives reach ``pos``.

    Returns:
        rast: [B, H, W, 4] = (u, v, z/w, triangle index + 1), all 0 where nothing is seen. u and v are the weights of
            the triangle's first and second corner. u, v and z/w are differentiable with respect to ``pos``.
        rast_db: [B, H, W, 4] = (du/dX, du/dY, dv/dX, dv/dY) per pixel step, or [B, H, W, 0] without ``output_db``.
    """
    views = _views(pos, tri, ranges)
    height, width = (int(n) for n in resolution)
    if height < 1 or width < 1:
        raise ValueError(f"resolution must be at least 1 x 1, got {height} x {width}")
    tri = tri.long()
    seen = torch.stack(
        [visible_triangles(clip, tri[faces], height, width) for clip, faces in views]
    )  # [B, H*W], relative to the view's first triangle
    if ranges is not None:
        seen = torch.where(seen > 0, seen + ranges[:, :1].to(seen), 0)

    pixel = seen.reshape(-1).nonzero().squeeze(-1)
    face = seen.reshape(-1).index_select(0, pixel) - 1
    corner = tri.index_select(0, face)
    if pos.dim() == 3:
        corner = corner + (pixel // (height * width) * pos.shape[1])[:, None]
    verts = pos.reshape(-1, 4).index_select(0, corner.reshape(-1)).reshape(-1, 3, 4)
    within = pixel % (height * width)
    ndc_x = ((within % width).to(pos.dtype) * 2 + 1) / width - 1
    ndc_y = ((within // width).to(pos.dtype) * 2 + 1) / height - 1
    bary, edge, x, y, w = _barycentrics(verts, ndc_x, ndc_y)
    z_over_w = (edge * verts[..., 2]).sum(-1) / (edge * verts[..., 3]).sum(-1)
    values = torch.stack([bary[:, 0], bary[:, 1], z_over_w, (face + 1).to(pos.dtype)], dim=-1)
    shape = (len(views), height, width)
    rast = _to_image(values, pixel, shape)
    if not glctx.output_db:
        return rast, rast.new_zeros(*shape, 0)
    with torch.set_grad_enabled(grad_db and torch.is_grad_enabled()):
        return rast, _to_image(_barycentric_derivatives(bary, edge, x, y, w, height, width), pixel, shape)


def _views(pos: Tensor, tri: Tensor, ranges: Tensor | None) -> list[tuple[Tensor, slice]]:
    """One (clip positions [V, 4], slice of triangles) per view, after checking the arguments."""
    if tri.dim() != 2 or tri.shape[1] != 3 or tri.is_floating_point():
        raise ValueError(f"tri must be an integer tensor of shape [F, 3], got {tri.dtype} {list(tri.shape)}")
    if pos.shape[-1:] != (4,) or pos.dim() not in (2, 3) or not pos.is_floating_point():
        raise ValueError(f"pos must be a float tensor of shape [B, V, 4] or [V, 4], got {pos.dtype} {list(pos.shape)}")
    if (pos.dim() == 2) != (ranges is not None):
        raise ValueError("ranges goes with pos of shape [V, 4]; pos of shape [B, V, 4] goes without ranges")
    if ranges is None:
        return [(clip, slice(None)) for clip in pos]
    return [(pos, slice(first, first + count)) for first, count in ranges.tolist()]


def _barycentrics(verts: Tensor, ndc_x: Tensor, ndc_y: Tensor):
    """Perspective-correct weights [P, 3] of the corners at the pixel centres, with what their derivatives need.

    With x_i = X_i - px W_i and y_i = Y_i - py W_i, the edge function is e_0 = x_1 y_2 - x_2 y_1 (cyclic) and
    b_i = e_i / sum_j e_j. Taking the pixel off first keeps float32 exact enough for pixel-sized triangles.
    """
    w = verts[..., 3]
    x = verts[..., 0] - ndc_x[:, None] * w
    y = verts[..., 1] - ndc_y[:, None] * w
    (x0, x1, x2), (y0, y1, y2) = x.unbind(-1), y.unbind(-1)
    edge = torch.stack([x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0], dim=-1)
    return edge / edge.sum(-1, keepdim=True), edge, x, y, w


def _barycentric_derivatives(bary, edge, x, y, w, height: int, width: int) -> Tensor:
    """(du/dX, du/dY, dv/dX, dv/dY) [P, 4] per pixel: db_i = (de_i - b_i sum_j de_j) / sum_j e_j."""
    j, k = [1, 2, 0], [2, 0, 1]
    total = edge.sum(-1, keepdim=True)
    edge_dx = (w[:, k] * y[:, j] - w[:, j] * y[:, k]) * (2 / width)
    edge_dy = (x[:, k] * w[:, j] - x[:, j] * w[:, k]) * (2 / height)
    dx = ((edge_dx - bary * edge_dx.sum(-1, keepdim=True)) / total)[:, :2]
    dy = ((edge_dy - bary * edge_dy.sum(-1, keepdim=True)) / total)[:, :2]
    return torch.stack([dx, dy], dim=-1).reshape(-1, 4)


def interpolate(
    attr: Tensor,
    rast: Tensor,
    tri: Tensor,
    rast_db: Tensor | None = None,
    diff_attrs: str | list[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Vertex attributes at the pixels: u a_0 + v a_1 + (1 - u - v) a_2.

    Args:
        attr: [B, V, C], [1, V, C] (shared by the views) or [V, C].
        rast: [B, H, W, 4] from ``rasterize``.
        tri: [F, 3] integer vertex indices (those of ``rasterize``, or others with as many triangles, e.g. UV seams).
        rast_db: derivatives from ``rasterize``, wanted together with ``diff_attrs``.
        diff_attrs: "all" or a list of channels whose image-space derivatives to return.

    Returns:
        out: [B, H, W, C], 0 where nothing is seen; gradients reach ``attr`` and ``rast``.
        out_da: [B, H, W, 2 * len(diff_attrs)] = (dA0/dX, dA0/dY, dA1/dX, ...), empty without ``diff_attrs``.
    """
    batch, height, width = rast.shape[:3]
    attr = attr[None] if attr.dim() == 2 else attr
    if attr.dim() != 3 or attr.shape[0] not in (1, batch):
        raise ValueError(f"attr must be [V, C], [1, V, C] or [{batch}, V, C], got {list(attr.shape)}")
    if diff_attrs is not None and rast_db is None:
        raise ValueError("diff_attrs needs rast_db, the second result of rasterize")
    n_channels = attr.shape[-1]

    flat = rast.reshape(-1, 4)
    pixel = flat[:, 3].detach().nonzero().squeeze(-1)
    values = flat.index_select(0, pixel)
    corner = tri.long().index_select(0, values[:, 3].detach().long() - 1)
    if attr.shape[0] > 1:
        corner = corner + (pixel // (height * width) * attr.shape[1])[:, None]
    corner_attr = attr.reshape(-1, n_channels).index_select(0, corner.reshape(-1)).reshape(-1, 3, n_channels)
    a, b, c = corner_attr.unbind(1)
    # u (a - c) + v (b - c) + c, which is the definition with one product fewer.
    along_u, along_v = a - c, b - c
    out = torch.addcmul(torch.addcmul(c, values[:, 0:1], along_u), values[:, 1:2], along_v)
    out = _to_image(out, pixel, (batch, height, width))
    if diff_attrs is None:
        return out, out.new_zeros(batch, height, width, 0)

    channels = list(range(n_channels)) if diff_attrs == "all" else list(diff_attrs)
    bary_d = rast_db.reshape(-1, 2, 2).index_select(0, pixel)  # [P, (u, v), (X, Y)]
    out_da = torch.einsum("pbc,pbx->pcx", torch.stack([along_u, along_v], dim=1)[..., channels], bary_d)
    return out, _to_image(out_da.reshape(-1, 2 * len(channels)), pixel, (batch, height, width))


def _to_image(values: Tensor, pixel: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Values [P, C] of the listed pixels as an image [B, H, W, C], 0 elsewhere."""
    image = values.new_zeros(shape[0] * shape[1] * shape[2], values.shape[-1])
    return image.index_copy(0, pixel, values).reshape(*shape, values.shape[-1])
