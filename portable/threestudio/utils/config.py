"""Configuration: YAML files and ``key=value`` overrides -> one checked, resolved :class:`ExperimentConfig`."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, ValidationError

from threestudio.utils.errors import SpecificationError, UnknownKeyError, UserError
from threestudio.utils.files import atomic_path, safe_name
from threestudio.utils.logging import warn


def C_max(value: Any) -> float:
    """Largest value that a scalar or a schedule ever takes (see :func:`threestudio.utils.misc.C`)."""
    if isinstance(value, (int, float)):
        return value
    points = schedule_points(value)
    return max(points[1], *points[2::2])


def schedule_points(value: Any) -> list:
    """Plain list of a schedule, always with its start step: ``[start_step, start, end, end_step, ...]``.

    Raises:
        ValueError: not an OmegaConf container (so that a schedule always comes from a configuration).
        TypeError: a mapping.
        AssertionError: neither 3 nor an even number >= 4 of entries.
    """
    points = config_to_primitive(value)
    if not isinstance(points, list):
        raise TypeError(f"a schedule is a number or a list, got {type(points).__name__}: {points}")
    if len(points) == 3:
        points = [0, *points]
    if len(points) < 4 or len(points) % 2:
        raise SpecificationError(
            "a schedule is [start, end, end_step] or [start_step, start, end, end_step, value, step, ...], "
            f"got {config_to_primitive(value)}"
        )
    return points


#: Resolvers that YAML files use as ``${name:argument,...}``.
RESOLVERS = {
    "calc_exp_lr_decay_rate": lambda factor, n: factor ** (1.0 / n),
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "idiv": lambda a, b: a // b,
    "basename": lambda path: os.path.basename(path),
    "rmspace": lambda text, sub: str(text).replace(" ", sub),
    "tuple2": lambda value: [float(value), float(value)],
    "gt0": lambda value: value > 0,
    "not": lambda value: not value,
    "cmaxgt0": lambda value: C_max(value) > 0,
    "cmaxgt0orcmaxgt0": lambda a, b: C_max(a) > 0 or C_max(b) > 0,
}
with warnings.catch_warnings():
    # omegaconf 2.4 renames the function to register_resolver, which in 2.3 is still the legacy one
    warnings.simplefilter("ignore")
    for _name, _function in RESOLVERS.items():
        OmegaConf.register_new_resolver(_name, _function, replace=True)


#: Texts of the user: whatever they contain is meant as it stands, never a reference and never YAML.
TEXT_KEYS = ("system.prompt_processor.prompt", "system.prompt_processor.negative_prompt")


@dataclass
class ExperimentConfig:
    """Top level of every YAML file. The output paths at the end of the first block are derived, never given."""

    name: str = "default"
    description: str = ""
    tag: str = ""
    seed: int = 0
    use_timestamp: bool = True
    timestamp: str = ""
    exp_root_dir: str = "outputs"

    exp_dir: str = "outputs/default"
    trial_name: str = "exp"
    trial_dir: str = "outputs/default/exp"
    n_gpus: int = 1

    resume: str | None = None

    data_type: str = ""
    data: dict = field(default_factory=dict)

    system_type: str = ""
    system: dict = field(default_factory=dict)

    # arguments of pytorch_lightning.Trainer
    trainer: dict = field(default_factory=dict)
    # arguments of the checkpoint callback
    checkpoint: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tag and not self.use_timestamp:
            raise UserError("tag is empty and use_timestamp is false: give one of them, the trial folder needs a name")
        if not self.timestamp:
            if self.use_timestamp and self.n_gpus > 1:
                warn("no timestamp in the trial folder: the processes of several GPUs would each make their own")
            elif self.use_timestamp:
                self.timestamp = datetime.now().strftime("@%Y%m%d-%H%M%S")
        self.trial_name = safe_name(self.tag) + self.timestamp
        self.exp_dir = os.path.join(self.exp_root_dir, self.name)
        self.trial_dir = os.path.join(self.exp_dir, self.trial_name)
        try:
            os.makedirs(self.trial_dir, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the output folder exp_root_dir={self.trial_dir}: {error.strerror}") from error


#: What is most often forgotten.
PROMPT_KEY = "system.prompt_processor.prompt"


def load_config(
    *yamls: str,
    cli_args: list[str] | None = None,
    from_string: bool = False,
    checks: Iterable[Callable[[DictConfig], None]] = (),
    **kwargs: Any,
) -> DictConfig:
    """Merge YAML files (later ones win; lists are replaced whole), then ``key=value`` strings, then ``kwargs``.

    References are resolved after all merging. With ``from_string`` the arguments are YAML texts instead of paths.
    ``checks`` see the merged configuration and refuse it by a ValueError, before a folder is made.
    """
    merged = merge_config(*yamls, cli_args=cli_args, from_string=from_string, checks=checks, **kwargs)
    return parse_structured(ExperimentConfig, merged)


def merge_config(
    *yamls: str,
    cli_args: list[str] | None = None,
    from_string: bool = False,
    checks: Iterable[Callable[[DictConfig], None]] = (),
    **kwargs: Any,
) -> DictConfig:
    """What :func:`load_config` takes for granted: merged, resolved and checked; no folder is made."""
    parts = [_read(source, from_string) for source in yamls]
    try:
        merged = _merged(yamls, parts, cli_args or [], kwargs)
        for key in TEXT_KEYS:
            _keep_text(merged, key)
        merged = OmegaConf.create(literal(OmegaConf.to_container(merged, resolve=True)))
    except InterpolationToMissingValueError as error:
        missing = ", ".join(sorted(OmegaConf.missing_keys(merged)))
        raise UserError(f"to be given as key=value: {missing} (as {PROMPT_KEY}='a red mug')") from error
    except RecursionError as error:
        raise UserError("the configuration is nested too deep, or refers to itself") from error
    _require_known_keys(ExperimentConfig, merged)
    OmegaConf.merge(OmegaConf.structured(ExperimentConfig), merged)  # wrong types are found before a folder is made
    for check in checks:
        check(merged)
    return merged


def _merged(yamls: Iterable[str], parts: Iterable[DictConfig], cli_args: Iterable[str], last: dict) -> DictConfig:
    """All layers, the later ones on top; one that puts a mapping where a list was is named."""
    overrides = ((argument, OmegaConf.from_cli([quoted_override(argument)])) for argument in cli_args)
    merged = OmegaConf.create({})
    for name, part in (*zip(yamls, parts, strict=True), *overrides, ("", last)):
        try:
            merged = OmegaConf.merge(merged, part)
        except TypeError as error:
            raise UserError(f"{name}: a list cannot stand where a mapping was, nor a mapping for a list") from error
    return merged


def _read(source: str, from_string: bool) -> Any:
    if not from_string and not os.path.isfile(source):
        raise UserError(f"no such configuration file: {source}")
    name = "text" if from_string else source
    try:
        read = OmegaConf.create(source) if from_string else OmegaConf.load(source)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is not valid YAML: {error}") from error
    except RecursionError as error:
        raise UserError(f"{name} is nested too deep") from error
    except OSError as error:  # also what OmegaConf says of a file that holds a bare number
        raise UserError(f"{name} cannot be read: {error}") from error
    if not isinstance(read, DictConfig):
        raise UserError(f"{name} must be a mapping of keys")
    return read


def _keep_text(cfg: DictConfig, key: str) -> None:
    """Escape what OmegaConf would take for a reference in the text of ``key``, if there is one."""
    value: Any = OmegaConf.to_container(cfg)
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, str):
        # what has its backslash already was written by dump_config
        OmegaConf.update(cfg, key, re.sub(r"(?<!\\)((?:\\\\)*)\$\{", r"\1\1\\${", value))


def literal(value: Any) -> Any:
    """Plain containers with every text such that OmegaConf reads it back as it stands, ``${`` included."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    return [literal(item) for item in value] if isinstance(value, list) else value


def quoted_override(argument: str) -> str:
    """``key=value`` with the value quoted if it is plain text that YAML would take for something else.

    Prompts are such texts: empty, of several lines, with a colon, a hash sign or a dash in them, or with a bracket left
    open. Lists and mappings are written with brackets, except where a text is asked for (:data:`TEXT_KEYS`).
    """
    key, equals, text = argument.partition("=")
    written_as_yaml = text.lstrip().startswith(("{", "[", '"', "'"))
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        value, plain = text, True
    else:
        misread = isinstance(value, (list, dict)) or " #" in text
        plain = not text or "\n" in text or (misread and not written_as_yaml)
    if key in TEXT_KEYS and equals:
        quoted = not plain and isinstance(value, str) and text.lstrip().startswith(('"', "'"))
        return f"{key}={_in_quotes(literal(value if quoted else text))}"
    return f"{key}={_in_quotes(text)}" if equals and plain else argument


def _in_quotes(text: str) -> str:
    """As a text of YAML; JSON's own escapes of characters beyond 16 bits are not YAML's."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in quoted)


def config_to_primitive(config: Any, resolve: bool = True) -> Any:
    """OmegaConf container -> plain dicts and lists."""
    return OmegaConf.to_container(config, resolve=resolve)


def dump_config(path: str, config: Any) -> None:
    """Write the resolved configuration as YAML, so that :func:`load_config` reads the same values back."""
    config = config if OmegaConf.is_config(config) else OmegaConf.create(config)
    plain = OmegaConf.create(literal(OmegaConf.to_container(config, resolve=True)))
    with atomic_path(path) as temporary:
        OmegaConf.save(config=plain, f=temporary)


def parse_structured(fields: type, cfg: dict | DictConfig | None = None) -> DictConfig:
    """Check ``cfg`` against the dataclass ``fields`` and fill in its defaults.

    Raises:
        TypeError: ``cfg`` is None or not a mapping, or has keys that the dataclass lacks.
        omegaconf.errors.ValidationError: a value that does not fit the field's type.
    """
    _require_known_keys(fields, cfg)
    values = dict(cfg)
    if isinstance(cfg, DictConfig):  # reading has resolved it: what looks like a reference now is text
        values = {key: literal(value) if isinstance(value, str) else value for key, value in values.items()}
    try:
        return OmegaConf.structured(fields(**values))
    except ValidationError as error:
        # omegaconf names the field, and a class that is always called Config
        reason = str(error.msg or error).splitlines()[0]
        raise ValidationError(f"{_owner(fields)}.{error.full_key}: {reason}") from error


def _owner(fields: type) -> str:
    return fields.__qualname__.removesuffix(".Config")


def _require_known_keys(fields: type, cfg: Any) -> None:
    choices = [f.name for f in dataclasses.fields(fields)]
    owner = _owner(fields)
    if not isinstance(cfg, (dict, DictConfig)):
        raise UnknownKeyError(f"the configuration of {owner} must be a mapping of {', '.join(choices)}; got {cfg!r}")
    unknown = [str(key) for key in cfg if key not in choices]
    if unknown:
        near = [match for key in unknown for match in get_close_matches(key, choices, n=1)]
        hint = f" (did you mean {', '.join(near)}?)" if near else ""
        raise UnknownKeyError(f"{owner} has no key {', '.join(unknown)}{hint}; its keys: {', '.join(choices)}")
