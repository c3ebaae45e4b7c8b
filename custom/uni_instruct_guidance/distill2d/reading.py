"""How a configuration is read: YAML files, overlays, key=value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from ..core.files import found
from ..core.ranges import shown

Config = TypeVar("Config")


def read_config(kind: type[Config], files: Iterable[str | Path] = (), overrides: Iterable[str] = ()) -> Config:
    """A configuration from YAML files (later ones override earlier ones) and `key=value` strings.

    `kind` is a dataclass with a method `check`, such as `DistillConfig`.

    `method: name` and `method: {name: name}` mean the same; naming another method drops the options of the one before.

    Raises:
        ValueError: unreadable file, unknown key (with the keys there are) or a value of the wrong kind; one line.
    """
    layers = [(f"--config {file}", _read_yaml(found(file))) for file in files]
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key:
            raise ValueError(f"{override!r} is not of the form key=value")
        try:
            layers.append((override, OmegaConf.to_container(OmegaConf.from_dotlist([override]))))
        except (YAMLError, OmegaConfBaseException, RecursionError, ValueError) as error:
            raise ValueError(f"{override!r} is not of the form key=value: {_one_line(error)}") from error
    merged = OmegaConf.structured(kind)
    for name, layer in layers:
        try:
            merged = _merge(merged, layer)
        except TypeError as error:
            raise ValueError(f"{name}: a list cannot stand where a mapping was, nor a mapping for a list") from error
        except OmegaConfBaseException as error:
            raise ValueError(f"{name}: {_one_line(error)}") from error
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(_one_line(error)) from error
    if getattr(config, "teacher", None):
        config.teacher = str(found(config.teacher))
    config.check()
    return config


def _merge(base, layer: Mapping[str, Any]):
    layer = dict(layer)
    if "method" in layer:
        layer["method"] = _merged_method(base.method, layer["method"])
        base.method = None  # replaced as a whole, not merged key by key
    try:
        return OmegaConf.merge(base, layer)
    except ConfigKeyError as error:
        raise ValueError(_unknown_key(base, error)) from error


def _merged_method(before: Any, after: Any) -> dict[str, Any]:
    before, after = _as_block(before), _as_block(after)
    if after.get("name", before.get("name")) != before.get("name"):
        return after
    return OmegaConf.to_container(OmegaConf.merge(before, after))


def _as_block(method: Any) -> dict[str, Any]:
    if OmegaConf.is_config(method):
        method = OmegaConf.to_container(method)
    if method is None:
        return {}
    if isinstance(method, Mapping):
        return dict(method)
    if not isinstance(method, str):
        raise ValueError(f"method={shown(method)} must be the name of a method or a mapping {{name: …, option: …}}")
    return {"name": method}


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"--config {path} does not exist")
    try:
        loaded = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException, OSError, RecursionError, ValueError) as error:
        raise ValueError(f"--config {path} is no YAML: {' '.join(str(error).split())}") from error
    if not OmegaConf.is_dict(loaded):
        raise ValueError(f"--config {path} must be a mapping of keys")
    return OmegaConf.to_container(loaded)


def _unknown_key(base, error: ConfigKeyError) -> str:
    full = str(error.full_key or error.key)
    parent = full.rpartition(".")[0]
    block = OmegaConf.select(base, parent) if parent else base
    known = ", ".join(block) if OmegaConf.is_dict(block) else ""
    return f"there is no key {full!r}; {'keys of ' + parent if parent else 'the keys are'}: {known}"


def _one_line(error: Exception) -> str:
    key = getattr(error, "full_key", None)
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{key}: {first}" if key else first
