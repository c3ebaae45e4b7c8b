"""Weight files of EDM networks: safetensors whose header says which network they belong to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...core.files import atomically
from .precond import EDMPrecond
from .presets import EDM_PRESETS, build_network


class CheckpointError(ValueError):
    """A weight file that cannot be used; the message names the file and what is wrong, in one line."""


def save_edm(
    path: str | Path, tensors: EDMPrecond | Mapping[str, Tensor], config: Mapping[str, Any] | None = None, **notes: str
) -> None:
    """Write weights (a network, or its state dict together with its `config`) in one atomic step.

    Args:
        path: a .safetensors file.
        notes: further entries of the header, e.g. preset="digits-cond", data="digits".
    """
    path = Path(path)
    if isinstance(tensors, EDMPrecond):
        config, tensors = tensors.config, tensors.state_dict()
    if config is None:
        raise ValueError("config=None; a state dict needs the arguments of its network")
    header = {"format": "pt", "network": json.dumps(config, allow_nan=False), **notes}
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    atomically(path, lambda partial: save_file(tensors, partial, metadata=header))


def read_header(path: str | Path) -> dict[str, str]:
    """The notes in the header of a weight file: "network" (JSON), "preset", …; {} if it has none."""
    with _opened(path) as file:
        return file.metadata() or {}


def load_edm(path: str | Path, preset: str | Mapping[str, Any] | None = None, **overrides: Any) -> EDMPrecond:
    """An EDM network with the weights of `path`, on the CPU.

    Args:
        path: a file of `save_edm`, scripts/train_edm.py or scripts/convert_edm.py.
        preset: a name of `EDM_PRESETS` or a dictionary of arguments; None takes what the file's header says.
        overrides: single arguments changed, e.g. dropout=0.0.

    Raises:
        CheckpointError: no such file, damaged, no network in its header and no preset given, or tensors that are
            missing, unexpected or of another shape (they are named).
    """
    with _opened(path) as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    if preset is None:
        if "network" not in header:
            raise CheckpointError(f"{path}: its header names no network; choose a preset: {', '.join(EDM_PRESETS)}")
        try:
            preset = json.loads(header["network"])
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{path}: the network in its header is not JSON: {error}") from None
    network = build_network(preset, **overrides)
    expected = network.state_dict()
    check_tensors(path, tensors, expected)
    for name in (name for name in expected if name.endswith("resample_filter")):
        if not torch.allclose(tensors[name].float(), expected[name], atol=1e-6):
            raise CheckpointError(f"{path}: {name} is not the filter that resample_filter= of the network gives")
    network.load_state_dict(tensors)
    return network


def check_tensors(path: str | Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose names or shapes differ from `expected`; a few of them are named."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    shapes = [
        f"{name} {list(found[name].shape)} instead of {list(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "shape": shapes}
    text = "; ".join(f"{kind}: {_few(names)}" for kind, names in problems.items() if names)
    if text:
        raise CheckpointError(f"{path}: not the weights of this network; {text}")


def _few(names: Iterable[str], shown: int = 3) -> str:
    names = list(names)
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def _opened(path: str | Path):
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or damaged: {error}") from None
