"""Backgrounds put behind cut-out renders while training: another one every time a picture is used.

In front of light greys alone white vanishes and fog of the background's colour costs nothing; a teacher that has seen
every object in front of every background leaves neither a place to hide.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

#: Shares of backgrounds that are grey (black to white, slightly tinted) and that change from top to bottom; the others
#: are of any colour, and plain.
GREY_SHARE, GRADIENT_SHARE = 0.6, 0.4
#: Normal maps lie on mid grey (the code of no direction) or on black (over which threestudio composites), half each.
NORMAL_MAP_LEVELS = (0.5, 0.0)


def _colours(generator: torch.Generator, count: int) -> Float[Tensor, "n 3"]:
    grey = torch.rand(count, 1, generator=generator) + 0.06 * (torch.rand(count, 3, generator=generator) - 0.5)
    colour = torch.rand(count, 3, generator=generator)
    is_grey = torch.rand(count, 1, generator=generator) < GREY_SHARE
    return torch.where(is_grey, grey, colour).clamp(0.0, 1.0)


def draw_backgrounds(generator: torch.Generator, kind: Int[Tensor, "n"]) -> Float[Tensor, "n 2 3"]:
    """Colours in 0..1 at the top and at the bottom of a picture; ``kind`` 1 is a normal map."""
    count = len(kind)
    top, other = _colours(generator, count), _colours(generator, count)
    far = torch.rand(count, 1, generator=generator)  # how far the bottom is on its way to the other colour
    changes = torch.rand(count, 1, generator=generator) < GRADIENT_SHARE
    pair = torch.stack([top, torch.where(changes, torch.lerp(top, other, far), top)], dim=1)
    level = torch.tensor(NORMAL_MAP_LEVELS)[torch.randint(2, (count,), generator=generator)]
    return torch.where((kind == 1)[:, None, None], level[:, None, None].expand(-1, 2, 3), pair)


def composite(
    image: UInt8[Tensor, "n h w 3"], coverage: UInt8[Tensor, "n h w"], backgrounds: Float[Tensor, "n 2 3"]
) -> Float[Tensor, "n 3 h w"]:
    """Premultiplied cut-outs over vertical gradients, in [-1, 1]."""
    height = image.shape[1]
    low = ((torch.arange(height, device=image.device) + 0.5) / height)[None, None, :, None]
    top, bottom = backgrounds.to(image.device)[..., None, None].unbind(1)
    clear = 1.0 - coverage[:, None].float() / 255.0
    return (image.movedim(-1, 1).float() / 255.0 + clear * torch.lerp(top, bottom, low)) * 2.0 - 1.0
