"""The torch twins under the import names of the CUDA libraries: tinycudann, nvdiffrast, nerfacc, envlight.

For programs that import those names, above all threestudio itself: after :func:`install` they run on any device torch
has. A real library that works on this machine always wins.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType

import torch

from backends import select


def _missing(module: str) -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: built for another GPU architecture
        return f"cannot import {module.partition('.')[0]}: {error}"
    return None


#: import name -> (why the real library cannot be used, None if it can; module names -> modules here).
LIBRARIES: dict[str, tuple[Callable[[], str | None], dict[str, str]]] = {
    "tinycudann": (select.missing_tinycudann, {"tinycudann": "tinycudann"}),
    "nvdiffrast": (
        lambda: _missing("nvdiffrast.torch"), {"nvdiffrast": "nvdiffrast", "nvdiffrast.torch": "nvdiffrast"},
    ),
    "nerfacc": (
        select.missing_nerfacc,
        dict.fromkeys(
            ("nerfacc", "nerfacc.data_specs", "nerfacc.estimators", "nerfacc.estimators.base", "nerfacc.pdf",
             "nerfacc.volrend"), "nerfacc"),
    ),
    "envlight": (lambda: _missing("envlight"), {"envlight": "envlight"}),
}  # fmt: skip


def install() -> dict[str, str]:
    """Put a stand-in where a library is missing or does not work here.

    Returns:
        name of each replaced library -> why its own code cannot be used.
    """
    replaced = {}
    for name, (missing, modules) in LIBRARIES.items():
        reason = missing()
        if reason is None:
            continue
        for path in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[path]  # what a broken import left behind
        for path, source in modules.items():
            sys.modules[path] = _alias(path, importlib.import_module(f"backends.libraries.{source}"))
        for path in modules:
            parent, _, child = path.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, sys.modules[path])
        replaced[name] = reason
    return replaced


def _alias(path: str, source: ModuleType) -> ModuleType:
    """A module of that name with the public contents of ``source``."""
    module = ModuleType(path, source.__doc__)
    module.__dict__.update({key: value for key, value in vars(source).items() if not key.startswith("_")})
    module.__path__ = []
    module.__spec__ = importlib.machinery.ModuleSpec(path, None, is_package=True)
    return module
