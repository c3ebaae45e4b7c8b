"""Surface properties as textures."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threestudio.models.mesh import Mesh
from threestudio.utils.rasterize import NVDiffRasterizerContext


def bake(
    mesh: Mesh, size: int, material_at: Callable[[Tensor], dict[str, Tensor]], context: NVDiffRasterizerContext
) -> tuple[dict[str, Float[Tensor, "S S C"]], Bool[Tensor, "S S"]]:
    """Evaluate surface properties at the texels of an unwrapped mesh.

    The mesh is drawn at its texture coordinates, row 0 at v = 0, and every texel asks at its own surface point.

    Args:
        material_at: points [N, 3] -> channels [N, C] by name.

    Returns:
        images by name, 0 where no face lies; and where one does.
    """
    v_tex = mesh.v_tex
    clip = torch.cat([v_tex * 2 - 1, torch.zeros_like(v_tex[:, :1]), torch.ones_like(v_tex[:, :1])], dim=-1)
    rast, _ = context.rasterize_one(clip, mesh.t_tex_idx, size)
    covered = rast[..., 3] > 0
    points = context.interpolate_one(mesh.v_pos, rast[None], mesh.t_pos_idx)[0][0][covered]
    images = {}
    for name, values in material_at(points).items():
        images[name] = values.new_zeros(size, size, values.shape[-1])
        images[name][covered] = values
    return images, covered


def padded(image: Float[Tensor, "S S C"], covered: Bool[Tensor, "S S"]) -> Float[Tensor, "S S C"]:
    """Fill every uncovered texel from the nearest covered one, so that filtering and mips see no seams."""
    from scipy.ndimage import distance_transform_edt

    if covered.all() or not covered.any():
        return image
    row, column = distance_transform_edt(~covered.cpu().numpy(), return_distances=False, return_indices=True)
    row, column = (torch.from_numpy(i).long().to(image.device) for i in (row, column))
    return image[row, column]
