"""Built-in host: threestudio's module paths, registered names and fields in pure torch.

Runs on CPU, CUDA or any other torch device, with nothing but pip. An extension written for threestudio 0.2.3 imports
``threestudio`` and finds here the same API: :func:`register`, :func:`find`, :class:`threestudio.utils.base.BaseModule`,
the stock data modules, geometries, renderers and systems. What it computes is held to the reference by numbers
(``tests/data/upstream_contract.json``).
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import TypeVar

from threestudio.utils.errors import DuplicateNameError, UnknownNameError
from threestudio.utils.logging import debug, info, warn

#: Version of threestudio whose contract this host keeps.
__version__ = "0.2.3"

#: Registered name -> class.
__modules__: dict[str, type] = {}

_T = TypeVar("_T", bound=type)


def register(name: str) -> Callable[[_T], _T]:
    """Class decorator: make the class available to configurations as ``name``.

    Raises:
        ValueError: the name is taken.
    """

    def decorator(cls: _T) -> _T:
        if name in __modules__:
            raise DuplicateNameError(
                f"cannot register {cls.__module__}.{cls.__name__} as '{name}': the name belongs to "
                f"{__modules__[name].__module__}.{__modules__[name].__name__} (was the module imported twice?)"
            )
        __modules__[name] = cls
        return cls

    return decorator


def find(name: str) -> type:
    """Class registered as ``name``.

    ``"main:a,b"`` composes a class named ``"main.a,b"`` on the spot, with bases a, b, main in that order.

    Raises:
        KeyError: nothing is registered under (a part of) the name.
    """
    main_name, colon, sub_names = name.partition(":")
    main = _lookup(main_name)
    if not colon:
        return main
    bases = tuple(_lookup(sub_name) for sub_name in sub_names.split(","))
    return type(f"{main_name}.{sub_names}", (*bases, main), {})


def _lookup(name: str) -> type:
    if name not in __modules__:
        near = get_close_matches(name, __modules__, n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise UnknownNameError(
            f"unknown name '{name}'; {hint}registered: {', '.join(sorted(__modules__)) or 'nothing'}"
        )
    return __modules__[name]


# The stock modules register themselves on import, which needs the functions above.
from . import data, models, systems  # noqa: E402

__all__ = ["__modules__", "__version__", "data", "debug", "find", "info", "models", "register", "systems", "warn"]
