"""Things of a user's own code, named on a command line or in a YAML file."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path


def load_named(key: str, path: str) -> Callable:
    """What `FILE.py:NAME` or `package.module:NAME` names: a function or a class.

    Raises:
        ValueError: one line with `key`: no such file, module or name, or it cannot be imported.
    """
    where, _, name = path.rpartition(":")
    try:
        module = _module_of_file(Path(where).expanduser()) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:  # whatever a user's file raises while it is read
        raise ValueError(f"{key}={path!r}: cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ValueError(f"{key}={path!r}: {where} has no function {name!r}")
    return found


def _module_of_file(file: Path):
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    spec = importlib.util.spec_from_file_location(f"uni_instruct_user_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
