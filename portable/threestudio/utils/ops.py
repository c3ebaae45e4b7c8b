"""Small tensor operations: vector algebra, range changes, activations, chunked evaluation.

Cameras and rays are in :mod:`threestudio.utils.cameras`, and importable from here, where the reference has them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from threestudio.utils.cameras import (
    get_full_projection_matrix,
    get_mvp_matrix,
    get_projection_matrix,
    get_ray_directions,
    get_rays,
)
from threestudio.utils.errors import SpecificationError, UserError

__all__ = [
    "SpecifyGradient",
    "binary_cross_entropy",
    "chunk_batch",
    "contract_to_unisphere",
    "dot",
    "get_activation",
    "get_full_projection_matrix",
    "get_mvp_matrix",
    "get_projection_matrix",
    "get_ray_directions",
    "get_rays",
    "perpendicular_component",
    "reflect",
    "scale_tensor",
    "shifted_cosine_decay",
    "shifted_expotional_decay",
    "tet_sdf_diff",
    "trunc_exp",
    "validate_empty_rays",
]


def dot(x: Float[Tensor, "*B D"], y: Float[Tensor, "*B D"]) -> Float[Tensor, "*B 1"]:
    """Scalar product over the last axis, which stays with length 1."""
    return (x * y).sum(-1, keepdim=True)


def reflect(x: Float[Tensor, "*B D"], n: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """Mirror image of ``x`` about the unit axis ``n``: 2 (x·n) n - x."""
    return 2 * dot(x, n) * n - x


def perpendicular_component(x: Float[Tensor, "B C H W"], y: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Part of ``x`` orthogonal to ``y``, each batch item taken as one vector (perp-neg, arXiv 2304.04968, Eq. 8)."""
    axes = tuple(range(1, x.ndim))
    # The floor only matters where y vanishes; there the whole of x is orthogonal to it.
    share = (x * y).sum(axes, keepdim=True) / y.square().sum(axes, keepdim=True).clamp_min(1e-6)
    return x - share * y


def scale_tensor(dat: Float[Tensor, "*N D"], inp_scale: Any, tgt_scale: Any) -> Float[Tensor, "*N D"]:
    """Affine change from one range to another, without clamping.

    Args:
        inp_scale, tgt_scale: pair ``(low, high)`` or tensor (2, D) of low and high corners; None means (0, 1).
    """
    in_low, in_high = (0, 1) if inp_scale is None else inp_scale
    out_low, out_high = (0, 1) if tgt_scale is None else tgt_scale
    return (dat - in_low) / (in_high - in_low) * (out_high - out_low) + out_low


def contract_to_unisphere(
    x: Float[Tensor, "*N 3"], bbox: Float[Tensor, "2 3"], unbounded: bool = False
) -> Float[Tensor, "*N 3"]:
    """World positions -> unit cube.

    Bounded: the box becomes [0, 1]^3, what lies outside of it falls outside. Unbounded: the box becomes [-1, 1]^3,
    points outside the unit ball are drawn in to radius 2 - 1/r (mip-NeRF 360, Eq. 10), and the ball of radius 2 is
    fitted into the cube.
    """
    if not unbounded:
        return scale_tensor(x, bbox, (0, 1))
    x = scale_tensor(x, bbox, (-1, 1))
    radius = x.norm(dim=-1, keepdim=True)
    outside = radius > 1
    safe = torch.where(outside, radius, torch.ones_like(radius))
    return torch.where(outside, (2 - 1 / safe) * (x / safe), x) / 4 + 0.5


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.exp(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * torch.exp(x.clamp(max=15))


def trunc_exp(x: Tensor) -> Tensor:
    """exp(x) in at least float32, its gradient capped at exp(15)."""
    return _TruncatedExp.apply(x if x.dtype == torch.float64 else x.float())


def _lin2srgb(x: Tensor) -> Tensor:
    """Linear light -> sRGB (IEC 61966-2-1), clamped to [0, 1]."""
    # The power is evaluated where it is used only: its slope at 0 is infinite.
    curve = 1.055 * x.clamp_min(0.0031308).pow(1.0 / 2.4) - 0.055
    return torch.where(x > 0.0031308, curve, 12.92 * x).clamp(0.0, 1.0)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "lin2srgb": _lin2srgb,
    "exp": torch.exp,
    "shifted_exp": lambda x: torch.exp(x - 1.0),
    "trunc_exp": trunc_exp,
    "shifted_trunc_exp": lambda x: trunc_exp(x - 1.0),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "shifted_softplus": lambda x: F.softplus(x - 1.0),
    "scale_-11_01": lambda x: x * 0.5 + 0.5,
}


def get_activation(name: str | None) -> Callable[[Tensor], Tensor]:
    """Activation by name, in any case: a key of :data:`ACTIVATIONS` or a function of ``torch.nn.functional``.

    None and ``none`` are the identity.

    Raises:
        ValueError: no such activation.
    """
    key = "none" if name is None else name.lower()
    activation = ACTIVATIONS.get(key) or getattr(F, key, None)
    if activation is None:
        raise UserError(
            f"unknown activation '{name}'; choices: {', '.join(ACTIVATIONS)}, or a function of torch.nn.functional"
        )
    return activation


class SpecifyGradient(torch.autograd.Function):
    """A loss of value 1 whose gradient in ``input_tensor`` is ``gt_grad``, times the gradient that arrives."""

    @staticmethod
    def forward(ctx, input_tensor: Tensor, gt_grad: Tensor) -> Float[Tensor, "1"]:
        ctx.save_for_backward(gt_grad)
        return torch.ones(1, device=input_tensor.device, dtype=input_tensor.dtype)

    @staticmethod
    def backward(ctx, grad_scale: Tensor) -> tuple[Tensor, None]:
        (gt_grad,) = ctx.saved_tensors
        return gt_grad * grad_scale, None


def chunk_batch(func: Callable, chunk_size: int, *args, **kwargs) -> Any:
    """``func(*args, **kwargs)`` evaluated piecewise along the first axis, to save memory.

    Every tensor argument is split, everything else is passed on. Results are joined: tensors along the first axis,
    tuples, lists and dicts of tensors item by item; None stays None. ``chunk_size`` <= 0: one call. Without gradients
    the pieces are detached.

    Raises:
        AssertionError: no argument is a tensor.
        TypeError: ``func`` returned something else.
    """
    if chunk_size <= 0:
        return func(*args, **kwargs)
    size = next((a.shape[0] for a in [*args, *kwargs.values()] if isinstance(a, Tensor)), None)
    if size is None:
        raise SpecificationError("chunk_batch needs at least one tensor argument to split")

    def piece(argument: Any, start: int) -> Any:
        return argument[start : start + chunk_size] if isinstance(argument, Tensor) else argument

    collected: dict[Any, list] = defaultdict(list)
    for start in range(0, max(1, size), chunk_size):
        out = func(*(piece(a, start) for a in args), **{k: piece(a, start) for k, a in kwargs.items()})
        for key, value in _items(out):
            collected[key].append(value if value is None or torch.is_grad_enabled() else value.detach())
    joined = {k: None if any(v is None for v in values) else torch.cat(values) for k, values in collected.items()}
    if isinstance(out, Tensor):
        return joined[0]
    return joined if isinstance(out, dict) else type(out)(joined.values())


def _items(out: Any) -> list[tuple[Any, Tensor | None]]:
    """Uniform view of what a chunked function returns."""
    if isinstance(out, Tensor):
        return [(0, out)]
    if isinstance(out, (tuple, list)):
        return list(enumerate(out))
    if isinstance(out, dict):
        return list(out.items())
    raise TypeError(f"a chunked function must return a tensor, tuple, list or dict, not {type(out).__name__}")


def binary_cross_entropy(input: Float[Tensor, "*N"], target: Float[Tensor, "*N"]) -> Float[Tensor, ""]:
    """Mean of -(t log p + (1 - t) log(1 - p)).

    Unlike ``F.binary_cross_entropy`` it has a derivative in ``target`` too, and does not clamp: infinite or nan at the
    ends 0 and 1.
    """
    return -(target * torch.log(input) + (1 - target) * torch.log(1 - input)).mean()


def tet_sdf_diff(vert_sdf: Float[Tensor, "Nv 1"], tet_edges: Int[Tensor, "Ne 2"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of each end with the other's sign, over edges that change sign (arXiv 2111.12503, Eq. 2)."""
    sdf = vert_sdf[:, 0][tet_edges.reshape(-1)].reshape(-1, 2)
    a, b = sdf[sdf[:, 0].sign() != sdf[:, 1].sign()].unbind(-1)
    return F.binary_cross_entropy_with_logits(a, (b > 0).float()) + F.binary_cross_entropy_with_logits(
        b, (a > 0).float()
    )


def validate_empty_rays(ray_indices: Tensor, t_start: Tensor, t_end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unchanged, or if no ray has any sample: one dummy sample of length 0 on ray 0 (its times are integers)."""
    if ray_indices.nelement() > 0:
        return ray_indices, t_start, t_end
    return tuple(torch.zeros(1, dtype=torch.int64, device=ray_indices.device) for _ in range(3))


def shifted_expotional_decay(a: float, b: float, c: float, r: Tensor) -> Tensor:
    """a exp(-b r) + c."""
    return a * torch.exp(-b * r) + c


def shifted_cosine_decay(a: float, b: float, c: float, r: Tensor) -> Tensor:
    """a cos(b r + c) + a."""
    return a * torch.cos(b * r + c) + a
