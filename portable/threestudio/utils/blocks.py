"""Every block of a configuration against the class that will take it, before anything is built.

Modules check their own block when they are made: a typing mistake in the exporter's would show after hours of training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException, ValidationError

import threestudio
from threestudio.models.networks import check_encoding, check_network
from threestudio.utils.config import parse_structured
from threestudio.utils.errors import UnknownKeyError, UnknownNameError, UserError

#: Ending of a field's name -> check of the tiny-cuda-nn configuration in it.
NESTED = {"encoding_config": check_encoding, "mlp_network_config": check_network}


def check_blocks(cfg: DictConfig) -> None:
    """Look up every ``X_type``, and check the keys and types of its block ``X``.

    Args:
        cfg: the whole configuration, merged and resolved; values may still be missing (``???``).

    Raises:
        ValueError: unknown name, unknown key, or a value of the wrong type; the message has the full key.
    """
    for key in ("data", "system"):
        name = cfg.get(f"{key}_type")
        if name:
            _check(key, f"{key}_type", name, cfg.get(key, {}))


def _check(key: str, type_key: str, name: Any, block: Any) -> None:
    fields = _fields_of(_find(type_key, name))
    if fields is None:
        return
    parsed = _parsed(key, fields, block)
    for stem, value in _named_blocks(parsed) if key == "system" else ():
        _check(f"{key}.{stem}", f"{key}.{stem}_type", value, parsed[stem])
    for field in dataclasses.fields(fields):
        for ending, check in NESTED.items():
            nested = None if OmegaConf.is_missing(parsed, field.name) else parsed[field.name]
            if field.name.endswith(ending) and nested is not None:
                check(nested, f"{key}.{field.name}")


def _find(type_key: str, name: Any) -> type:
    if not isinstance(name, str):
        raise UserError(f"{type_key}={name!r} must be a registered name")
    try:
        return threestudio.find(name)
    except UnknownNameError as error:
        raise UnknownNameError(f"{type_key}: {error}") from error


def _fields_of(cls: type) -> type | None:
    """The dataclass of a registered class: its ``Config``, or what its ``cfg`` is annotated with."""
    fields = getattr(cls, "Config", None) or get_type_hints(cls).get("cfg")
    return fields if dataclasses.is_dataclass(fields) else None


def _parsed(key: str, fields: type, block: Any) -> DictConfig:
    try:
        return parse_structured(fields, block)
    except UnknownKeyError as error:
        raise UnknownKeyError(f"{key}: {error}") from error
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key or key} is missing; give it a value") from error
    except ValidationError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
        full = f"{key}.{cause.full_key}" if cause.full_key else key
        raise UserError(f"{full}: {str(cause.msg or cause).splitlines()[0]}") from error


def _named_blocks(parsed: DictConfig) -> Iterator[tuple[str, Any]]:
    """Stem and value of every ``X_type`` that has a block ``X`` beside it."""
    for key in parsed:
        stem = str(key).removesuffix("_type")
        if stem != key and stem in parsed and not OmegaConf.is_missing(parsed, key) and parsed[key]:
            yield stem, parsed[key]
