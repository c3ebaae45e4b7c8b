"""Texture sampling: nearest, bilinear and trilinear over a mip pyramid, differentiable in texels and coordinates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_FILTERS = ("auto", "nearest", "linear", "linear-mipmap-nearest", "linear-mipmap-linear")


def _wrap(index: Tensor, size: Tensor) -> tuple[Tensor, Tensor | None]:
    return index % size, None


def _clamp(index: Tensor, size: Tensor) -> tuple[Tensor, Tensor | None]:
    return torch.minimum(index.clamp(min=0), size - 1), None


def _zero(index: Tensor, size: Tensor) -> tuple[Tensor, Tensor | None]:
    return _clamp(index, size)[0], (index >= 0) & (index < size)


_BOUNDARIES = {"wrap": _wrap, "clamp": _clamp, "zero": _zero}


def texture_construct_mip(tex: Tensor, max_mip_level: int | None = None) -> list[Tensor]:
    """Levels 1, 2, ... of a texture [B, H, W, C], each the 2 x 2 average of the one before.

    Stops at 1 x 1, at an odd side, or after ``max_mip_level`` levels.
    """
    levels, level = [], tex
    while (max_mip_level is None or len(levels) < max_mip_level) and max(level.shape[1:3]) > 1:
        height, width = level.shape[1:3]
        if (height > 1 and height % 2) or (width > 1 and width % 2):
            break
        window = (min(height, 2), min(width, 2))
        level = F.avg_pool2d(level.permute(0, 3, 1, 2), window, window).permute(0, 2, 3, 1)
        levels.append(level)
    return levels


def texture(
    tex: Tensor,
    uv: Tensor,
    uv_da: Tensor | None = None,
    mip_level_bias: Tensor | None = None,
    mip: list[Tensor] | None = None,
    filter_mode: str = "auto",
    boundary_mode: str = "wrap",
    max_mip_level: int | None = None,
) -> Tensor:
    """Sample a texture. Texel (i, j) has its centre at uv = ((j + 1/2) / W, (i + 1/2) / H).

    Args:
        tex: [B, H, W, C] or [1, H, W, C].
        uv: [B, h, w, 2] coordinates, one texture per unit.
        uv_da: [B, h, w, 4] image-space derivatives of uv (``interpolate`` with ``diff_attrs="all"``): choose the level.
        mip_level_bias: [B, h, w] added to the level (alone it is the level).
        mip: levels from ``texture_construct_mip``, else made here.
        filter_mode: "nearest", "linear", "linear-mipmap-nearest", "linear-mipmap-linear", or "auto": the last of
            these when ``uv_da`` or ``mip_level_bias`` is given, else "linear".
        boundary_mode: "wrap", "clamp" or "zero".
        max_mip_level: highest level built and used.

    Returns:
        [B, h, w, C]; gradients reach ``tex``, ``uv``, ``uv_da`` and ``mip_level_bias``.
    """
    if filter_mode not in _FILTERS:
        raise ValueError(f"filter_mode is {filter_mode!r}, must be one of {', '.join(_FILTERS)}")
    if boundary_mode not in _BOUNDARIES:
        raise ValueError(f"boundary_mode is {boundary_mode!r}, must be one of {', '.join(_BOUNDARIES)}")
    if tex.dim() != 4 or tex.shape[0] not in (1, uv.shape[0]):
        raise ValueError(f"tex must be [1, H, W, C] or [{uv.shape[0]}, H, W, C], got {list(tex.shape)}")
    has_level = uv_da is not None or mip_level_bias is not None
    if filter_mode == "auto":
        filter_mode = "linear-mipmap-linear" if has_level else "linear"
    if "mipmap" not in filter_mode:
        return _sample([tex], uv, None, boundary_mode, nearest=filter_mode == "nearest")
    if not has_level:
        raise ValueError(f"filter_mode {filter_mode!r} needs uv_da or mip_level_bias to choose a level")

    levels = [tex, *(mip if mip is not None else texture_construct_mip(tex, max_mip_level))]
    levels = levels[: None if max_mip_level is None else max_mip_level + 1]
    level = torch.zeros_like(uv[..., 0]) if uv_da is None else _mip_level(uv_da, tex.shape[1], tex.shape[2])
    if mip_level_bias is not None:
        level = level + mip_level_bias
    level = level.clamp(0, len(levels) - 1)
    if filter_mode == "linear-mipmap-nearest":
        return _sample(levels, uv, level.round().long(), boundary_mode)
    lower = level.detach().floor().long()
    upper = (lower + 1).clamp(max=len(levels) - 1)
    fine, coarse = (_sample(levels, uv, index, boundary_mode) for index in (lower, upper))
    return torch.lerp(fine, coarse, (level - lower)[..., None].expand_as(fine))


def _mip_level(uv_da: Tensor, height: int, width: int) -> Tensor:
    """log2 of the longest texel footprint of a pixel: the larger singular value of d(texel) / d(pixel)."""
    ux, uy, vx, vy = (uv_da * uv_da.new_tensor([width, width, height, height])).unbind(-1)
    squares = ux**2 + uy**2 + vx**2 + vy**2
    det = ux * vy - uy * vx
    # sigma^2 = (s + sqrt(s^2 - 4 det^2)) / 2; the clamps keep log and square root differentiable where uv stands still.
    root = (squares**2 - 4 * det**2).clamp(min=1e-24).sqrt()
    return 0.5 * torch.log2(((squares + root) / 2).clamp(min=1e-12))


def _sample(
    levels: list[Tensor], uv: Tensor, level: Tensor | None, boundary_mode: str, nearest: bool = False
) -> Tensor:
    """Bilinear (or nearest) samples [B, h, w, C], each pixel from its own pyramid level (None: level 0)."""
    batch, channels = uv.shape[0], levels[0].shape[-1]
    texels = torch.cat([t.reshape(-1, channels) for t in levels])
    heights, widths = (torch.tensor([t.shape[d] for t in levels], device=uv.device) for d in (1, 2))
    sizes = heights * widths * levels[0].shape[0]
    level = torch.zeros(uv.shape[:-1], dtype=torch.long, device=uv.device) if level is None else level
    height, width = heights[level], widths[level]
    first = (sizes.cumsum(0) - sizes)[level]
    if levels[0].shape[0] > 1:
        first = first + torch.arange(batch, device=uv.device).reshape(-1, 1, 1) * height * width

    def fetch(i: Tensor, j: Tensor) -> Tensor:
        i, i_inside = _BOUNDARIES[boundary_mode](i, height)
        j, j_inside = _BOUNDARIES[boundary_mode](j, width)
        value = texels.index_select(0, (first + i * width + j).reshape(-1)).reshape(*uv.shape[:-1], channels)
        return value if i_inside is None else value * (i_inside & j_inside)[..., None]

    x, y = uv[..., 0] * width, uv[..., 1] * height
    if nearest:
        return fetch(y.detach().floor().long(), x.detach().floor().long())
    x, y = x - 0.5, y - 0.5
    j, i = x.detach().floor().long(), y.detach().floor().long()
    fx, fy = (x - j)[..., None], (y - i)[..., None]
    above = fetch(i, j) * (1 - fx) + fetch(i, j + 1) * fx
    below = fetch(i + 1, j) * (1 - fx) + fetch(i + 1, j + 1) * fx
    return above * (1 - fy) + below * fy
