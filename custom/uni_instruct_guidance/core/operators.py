"""Linear measurements y = A x + σ_y n of pictures, as rows of one table: each with its adjoint and pseudo-inverse.

| row              | A                                                                       | A⁺                      |
|------------------|-------------------------------------------------------------------------|-------------------------|
| inpaint          | pixels that are missing become 0                                        | Aᵀ                      |
| super-resolution | mean of blocks of f × f pixels                                          | f² Aᵀ: blocks repeated  |
| deblur           | Gaussian blur, reflected at the border: K_h X K_wᵀ                      | SVD, small values cut   |
| denoise          | identity                                                                | identity                |
| compressive      | random signs, orthonormal cosine transform, a random share of its values | Aᵀ                     |

An operator of one's own needs `forward` and `adjoint`; its pseudo-inverse then comes from conjugate gradients. What
back-propagates through an operator uses the adjoint, so that the forward map need not be differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UserError, choose, require_known
from .ranges import check, number, whole

Map = Callable[[Tensor], Tensor]
#: (C, H, W) of one picture.
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Operator:
    """One measurement.

    Attributes:
        name: for messages and file names.
        forward: A, pictures [B, C, H, W] to measurements [B, ...]. adjoint: Aᵀ, back again.
        inverse: A⁺; None: by conjugate gradients on AᵀA.
    """

    name: str
    forward: Map
    adjoint: Map
    inverse: Map | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """A x, differentiable by the adjoint."""
        return _Linear.apply(x, self)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A⁺ y [B, C, H, W]."""
        return conjugate_gradients(self, y) if self.inverse is None else self.inverse(y)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, operator: Operator) -> Tensor:
        ctx.operator = operator
        return operator.forward(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return ctx.operator.adjoint(grad), None


@torch.no_grad()
def conjugate_gradients(operator: Operator, y: Tensor, steps: int = 50, tolerance: float = 1e-6) -> Tensor:
    """The least-norm x that minimises ‖y − A x‖², from AᵀA x = Aᵀy started at 0; each sample has its own step sizes."""
    residual = operator.adjoint(y)
    x, direction = torch.zeros_like(residual), residual.clone()

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).reshape(-1, 1, 1, 1)

    square = start = dot(residual, residual)
    for _ in range(steps):
        if bool((square <= tolerance**2 * start).all()):
            break
        image = operator.adjoint(operator.forward(direction))
        rate = square / dot(direction, image).clamp_min(torch.finfo(y.dtype).tiny)
        x, residual = x + rate * direction, residual - rate * image
        before, square = square, dot(residual, residual)
        direction = residual + square / before.clamp_min(torch.finfo(y.dtype).tiny) * direction
    return x


def adjoint_gap(operator: Operator, shape: Shape, generator: torch.Generator) -> float:
    """|⟨A x, y⟩ − ⟨x, Aᵀ y⟩| of a random x and y, as a share of ‖A x‖ ‖y‖; 0 but for rounding.

    y is A x and as much again that is random: of two random vectors a wrong factor would hardly show.
    """
    x = torch.randn((1, *shape), generator=generator)
    image = operator.forward(x)
    y = image + torch.randn(image.shape, generator=generator) * image.square().mean().sqrt()
    gap = (image * y).sum() - (x * operator.adjoint(y)).sum()
    return float(gap.abs() / (image.norm() * y.norm()).clamp_min(1e-12))


# --- rows -------------------------------------------------------------------------------------------------------------


def inpaint(shape: Shape, generator: torch.Generator, missing: float = 0.7, mask: Tensor | None = None) -> Operator:
    """Pixels kept or not, all channels alike. `mask` [H, W], 1 where known; without one a random share is `missing`."""
    if mask is None:
        count = math.prod(shape[1:])
        order = torch.randperm(count, generator=generator)
        mask = torch.ones(count)
        mask[order[: round(missing * count)]] = 0
        mask = mask.reshape(shape[1:])

    def keep(x: Tensor) -> Tensor:
        return x * mask.to(x)

    return Operator("inpaint", keep, keep, keep)


def super_resolution(shape: Shape, generator: torch.Generator, factor: int = 4) -> Operator:
    """Means of blocks of `factor` × `factor` pixels."""
    if shape[1] % factor or shape[2] % factor:
        raise UserError(f"factor={factor} does not divide the picture's {shape[1]} × {shape[2]} pixels")

    def repeat(y: Tensor) -> Tensor:
        return y.repeat_interleave(factor, -1).repeat_interleave(factor, -2)

    return Operator("super-resolution", lambda x: F.avg_pool2d(x, factor), lambda y: repeat(y) / factor**2, repeat)


def deblur(shape: Shape, generator: torch.Generator, blur: float = 2.0, cut: float = 0.05) -> Operator:
    """Gaussian of standard deviation `blur` in pixels; singular values below `cut` are left out of the inverse."""
    rows, columns = (_blur_matrix(side, blur) for side in shape[1:])
    u_h, s_h, v_h = torch.linalg.svd(rows)
    u_w, s_w, v_w = torch.linalg.svd(columns)
    singular = s_h[:, None] * s_w
    inverse = torch.where(singular > cut, 1 / singular.clamp_min(cut), torch.zeros(()))

    def between(left: Tensor, right: Tensor) -> Map:
        return lambda x: left.to(x) @ x @ right.to(x).T

    def undo(y: Tensor) -> Tensor:
        return between(v_h.T, v_w.T)(inverse.to(y) * between(u_h.T, u_w.T)(y))

    return Operator("deblur", between(rows, columns), between(rows.T, columns.T), undo)


def denoise(shape: Shape, generator: torch.Generator) -> Operator:
    """The picture itself."""
    return Operator("denoise", lambda x: x, lambda y: y, lambda y: y)


def compressive(shape: Shape, generator: torch.Generator, share: float = 0.25) -> Operator:
    """A random `share` of the cosine transform of the picture under random signs; its rows are orthonormal."""
    size = math.prod(shape[1:])
    signs = torch.randint(2, shape[1:], generator=generator) * 2.0 - 1
    kept = torch.randperm(size, generator=generator)[: max(1, round(share * size))]
    rows, columns = (_cosines(side) for side in shape[1:])

    def forward(x: Tensor) -> Tensor:
        return (rows.to(x) @ (signs.to(x) * x) @ columns.to(x).T).flatten(2)[..., kept]

    def adjoint(y: Tensor) -> Tensor:
        values = y.new_zeros((*y.shape[:2], size))
        values[..., kept] = y
        return signs.to(y) * (rows.to(y).T @ values.unflatten(2, shape[1:]) @ columns.to(y))

    return Operator("compressive", forward, adjoint, adjoint)


def _blur_matrix(side: int, blur: float) -> Tensor:
    """[side, side]: row i holds the weights of pixel i's neighbours, those beyond the border reflected at its edge."""
    reach = max(1, math.ceil(3 * blur))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / blur) ** 2)
    matrix = torch.zeros(side, side)
    for offset, weight in zip(range(-reach, reach + 1), (weights / weights.sum()).tolist()):
        place = (torch.arange(side) + offset) % (2 * side)
        place = torch.where(place >= side, 2 * side - 1 - place, place)
        matrix[torch.arange(side), place] += weight
    return matrix


def _cosines(side: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) [side, side]."""
    angle = math.pi / side * torch.outer(torch.arange(side), torch.arange(side) + 0.5)
    matrix = angle.cos() * math.sqrt(2 / side)
    matrix[0] /= math.sqrt(2)
    return matrix


OPERATORS: dict[str, Callable[..., Operator]] = {
    "inpaint": inpaint,
    "super-resolution": super_resolution,
    "deblur": deblur,
    "denoise": denoise,
    "compressive": compressive,
}

#: Options of each row and their ranges; a mask is a tensor and has none.
OPTIONS = {
    "inpaint": {"missing": number(above=0, below=1)},
    "super-resolution": {"factor": whole(least=2)},
    "deblur": {"blur": number(above=0, most=64), "cut": number(above=0, below=1)},
    "denoise": {},
    "compressive": {"share": number(above=0, most=1)},
}


def make_operator(name: str, shape: Shape, generator: torch.Generator, **options: Any) -> Operator:
    """A row of the table for pictures of one shape.

    Args:
        generator: on the CPU, for what is random in an operator.
        options: of the row, see `OPTIONS`; `mask` [H, W] of `inpaint`.

    Raises:
        ValueError: unknown row, option or value, with the choices; options that do not fit the shape.
    """
    build = choose("task", name, OPERATORS)
    known = [*OPTIONS[name], *(["mask"] if name == "inpaint" else [])]
    require_known(f"task {name!r}", options, known)
    check(OPTIONS[name], options)
    return build(shape, generator, **options)


def own_operator(name: str, made: Any, shape: Shape, generator: torch.Generator) -> Operator:
    """A user's object with `forward` and `adjoint` (and perhaps `inverse`), tried out on random pictures.

    Raises:
        UserError: one of the two is missing or fails, or the adjoint is none.
    """
    parts: Mapping[str, Any] = {part: getattr(made, part, None) for part in ("forward", "adjoint", "inverse")}
    missing = [part for part in ("forward", "adjoint") if not callable(parts[part])]
    if missing:
        raise UserError(f"task={name!r}: the operator has no {' and no '.join(missing)}; both must be functions")
    operator = Operator(name, parts["forward"], parts["adjoint"], parts["inverse"])
    try:
        gap = adjoint_gap(operator, shape, generator)
    except Exception as error:  # whatever a user's function raises
        raise UserError(f"task={name!r} fails on pictures {[1, *shape]}: {type(error).__name__}: {error}") from error
    if not gap < 1e-4:
        raise UserError(f"task={name!r}: its adjoint is none: ⟨Ax, y⟩ and ⟨x, Aᵀy⟩ differ by {gap:.2g} of their size")
    return operator
