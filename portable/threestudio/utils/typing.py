"""Names that annotations use, gathered where threestudio keeps them.

Array shapes are jaxtyping's: ``Float[Tensor, "B H W C"]``. They document; threestudio's ``--typecheck`` checks them
at run time, this host does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import (  # noqa: UP035 - the reference exports the old aliases, extensions import them from here
    Any,
    Dict,
    List,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from jaxtyping import Bool, Complex, Float, Inexact, Int, Integer, Num, Shaped, UInt
from omegaconf import DictConfig
from torch import Tensor

__all__ = [
    "Any",
    "Bool",
    "Callable",
    "Complex",
    "Dict",
    "DictConfig",
    "Float",
    "Inexact",
    "Int",
    "Integer",
    "Iterable",
    "List",
    "Literal",
    "NamedTuple",
    "NewType",
    "Num",
    "Optional",
    "Shaped",
    "Sized",
    "Tensor",
    "Tuple",
    "Type",
    "TypeVar",
    "UInt",
    "Union",
]
