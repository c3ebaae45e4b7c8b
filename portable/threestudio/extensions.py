"""Extensions: folders of ``custom/`` that register further names on import."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from threestudio.utils.errors import UserError
from threestudio.utils.logging import info


class ExtensionError(UserError):
    """An extension could not be imported."""


def extension_packages(folders: Iterable[Path]) -> dict[str, Path]:
    """Name -> folder of every extension; a later folder's extension replaces an earlier one of the same name.

    Hidden folders, ``_``-folders and names ending in ``.disabled`` are passed over.
    """
    found = {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            hidden = path.name.startswith((".", "_")) or path.name.endswith(".disabled")
            if path.is_dir() and not hidden:
                found[path.name] = path
    return found


def load_extensions(folders: Iterable[Path]) -> list[str]:
    """Import every extension as a module named by its folder; returns the names.

    Raises:
        ExtensionError: one fails to import, with the reason. (The reference prints a line and goes on, so that the
            mistake shows up later as an unknown name.)
    """
    names = []
    for name, path in extension_packages(folders).items():
        entry = path / "__init__.py"
        if not entry.is_file():
            raise ExtensionError(f"extension {path} has no __init__.py; to keep it out, rename it to {name}.disabled")
        spec = importlib.util.spec_from_file_location(name, entry, submodule_search_locations=[str(path)])
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise ExtensionError(f"extension {path} cannot be imported: {type(error).__name__}: {error}") from error
        names.append(name)
    info(f"extensions: {', '.join(names) or 'none'}")
    return names


def extension_checks(names: Iterable[str]) -> list[Callable]:
    """What loaded extensions have to say about a configuration: each one's ``check_config(cfg)``, where it has one.

    It raises a ValueError for a value that it does not allow. (Not in the reference, which never asks.)
    """
    modules = [sys.modules[name] for name in names]
    return [module.check_config for module in modules if hasattr(module, "check_config")]
