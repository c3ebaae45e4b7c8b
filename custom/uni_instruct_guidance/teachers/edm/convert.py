"""Published EDM pickles (Karras et al. 2022) → safetensors that `load_edm` reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import CheckpointError, check_tensors, save_edm
from .precond import EDMPrecond
from .presets import EDM_PRESETS, build_network
from .safe_pickle import ModuleRecord, TensorRecord, UnsafePickleError, read_edm_pickle

# Arguments of the published networks that have one value here, because no EDM network uses another.
FIXED_ARGUMENTS = {"decoder_type": "standard", "label_dropout": 0}
_DEEPEST = 16  # modules inside modules; the networks have 4


@dataclass(frozen=True)
class Conversion:
    """What was converted: preset (None if only the file's own arguments describe it), tensors, parameters, config."""

    preset: str | None
    tensors: int
    parameters: int
    config: dict[str, Any]

    def __str__(self) -> str:
        what = self.preset or "no preset, the network is described in the header"
        return f"{what}: {self.tensors} tensors, {self.parameters:,} parameters"


def convert_edm(source: str | Path, target: str | Path) -> Conversion:
    """Write the EMA network of the pickle `source` to the safetensors file `target`, in one atomic step.

    Nothing in the pickle is executed, see `safe_pickle`. The tensors are compared with the network that the pickle's
    own arguments describe, by name and shape, before anything is written.

    Raises:
        CheckpointError: the pickle is missing, damaged, unsafe, or holds another kind of network.
    """
    content = read_edm_pickle(source)
    ema = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(ema, ModuleRecord):
        raise CheckpointError(f"{source}: holds no network under 'ema'")
    if ema.class_name != EDMPrecond.__name__:
        raise CheckpointError(f"{source}: holds a {ema.class_name}; only {EDMPrecond.__name__} can be converted")
    try:
        tensors = {name: record.tensor() for name, record in _records(ema)}
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{source}: refused, not part of an EDM network: {error}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    preset = detect_preset(tensors)
    config = _config(source, ema.state.get("_init_kwargs"), preset)
    try:
        network = _on_meta(config)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{source}: its arguments do not make a network: {error}") from None
    check_tensors(source, tensors, network.state_dict())
    if preset is not None and network.sigma_data != 0.5:
        preset = None  # the same U-Net, but another denoiser
    save_edm(target, tensors, network.config, **({"preset": preset} if preset else {}))
    parameters = sum(tensors[name].numel() for name, _ in network.named_parameters())
    return Conversion(preset, len(tensors), parameters, network.config)


def detect_preset(tensors: Mapping[str, Tensor]) -> str | None:
    """The preset whose tensors have the same names and shapes, or None."""
    found = {name: tensor.shape for name, tensor in tensors.items()}
    return next((preset for preset in EDM_PRESETS if _shapes(preset) == found), None)


@cache
def _shapes(preset: str) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in _on_meta(EDM_PRESETS[preset]).state_dict().items()}


def _config(source: str | Path, arguments: Any, preset: str | None) -> dict[str, Any]:
    """Arguments of our network from those that the pickle recorded, or from the preset if it recorded none."""
    if not arguments:
        if preset is None:
            raise CheckpointError(f"{source}: records no arguments and fits no preset: {', '.join(EDM_PRESETS)}")
        return dict(EDM_PRESETS[preset])
    if not isinstance(arguments, dict) or not all(_plain(value) for value in arguments.values()):
        raise CheckpointError(f"{source}: its recorded arguments are not plain numbers and names")
    config = dict(arguments)
    for key, only in FIXED_ARGUMENTS.items():
        if config.pop(key, only) != only:
            raise CheckpointError(f"{source}: {key}={arguments[key]!r} is not supported, only {only!r}")
    return config


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(v, int | float) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def _on_meta(config: Mapping[str, Any]) -> EDMPrecond:
    with torch.device("meta"):
        return build_network(config)


def _records(module: ModuleRecord, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, TensorRecord]]:
    """Names and tensors as `state_dict` would list them."""
    if depth > _DEEPEST:
        raise UnsafePickleError("modules that contain themselves")
    state = module.state
    hidden = state.get("_non_persistent_buffers_set") or ()
    for group in ("_parameters", "_buffers"):
        for name, record in (state.get(group) or {}).items():
            if record is None or (group == "_buffers" and name in hidden):
                continue
            if not isinstance(record, TensorRecord):
                raise UnsafePickleError(f"{type(record).__name__} in the place of tensor {prefix}{name}")
            yield f"{prefix}{name}", record
    for name, child in (state.get("_modules") or {}).items():
        if child is None:
            continue
        if not isinstance(child, ModuleRecord):
            raise UnsafePickleError(f"{type(child).__name__} in the place of module {prefix}{name}")
        yield from _records(child, f"{prefix}{name}.", depth + 1)
