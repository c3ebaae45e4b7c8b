"""One way to refuse a user's value: name the argument, the value and the choices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch

Row = TypeVar("Row")


class UserError(ValueError):
    """A wrong configuration, file or circumstance; the message names it and says what is possible, in one line."""


def choose(argument: str, value: Any, table: Mapping[str, Row]) -> Row:
    """Look `value` up in `table`; a ValueError names `argument`, `value` and every choice."""
    if isinstance(value, str) and value in table:
        return table[value]
    raise ValueError(f"{argument}={value!r} is not known; choose one of {', '.join(table)}")


def require_known(argument: str, keys: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keys outside `known`, naming the first one."""
    known = list(known)
    for key in keys:
        if key not in known:
            raise ValueError(f"{argument} has no option {key!r}; choose one of {', '.join(known)}")


def require_shape(argument: str, tensor: torch.Tensor, shape: torch.Size | tuple[int, ...]) -> None:
    """Refuse a tensor of another shape."""
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{argument} must be a tensor of shape {list(shape)}, got {type(tensor).__name__}")
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{argument} has shape {list(tensor.shape)}, expected {list(shape)}")
