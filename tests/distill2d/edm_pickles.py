"""Pickles in the format of the published EDM files, and malicious ones.

The published files name modules that are not installed here (`torch_utils.persistence`, `dnnlib.util`); stand-ins for
them are importable only while a pickle is being written.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
import types
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


def _reconstruct_persistent_obj(meta: dict) -> None:
    raise AssertionError("a reader called the pickle's own function")


class EasyDict(dict):
    def __reduce_ex__(self, protocol: int):
        """With the empty state that Python 3.10 and older write, as in the published files."""
        return copyreg.__newobj__, (EasyDict,), {}, None, iter(self.items())


@contextmanager
def published_modules():
    """`torch_utils.persistence` and `dnnlib.util`, importable inside the block."""
    contents = {
        "torch_utils": {},
        "torch_utils.persistence": {"_reconstruct_persistent_obj": _reconstruct_persistent_obj},
        "dnnlib": {},
        "dnnlib.util": {"EasyDict": EasyDict},
    }
    for name, members in contents.items():
        module = sys.modules[name] = types.ModuleType(name)
        for key, member in members.items():
            setattr(module, key, member)
            member.__module__ = name
    try:
        yield
    finally:
        for name in contents:
            del sys.modules[name]


class Persistent:
    """Pickles as the published objects do: class name, source code and attributes."""

    def __init__(self, class_name: str, state: dict[str, Any] | None, source: str = "") -> None:
        self.meta = {
            "type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state,
        }  # fmt: skip

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,), None


def published_module(module: nn.Module, source: str, **extra: Any) -> Persistent | nn.ModuleDict:
    """A module of ours as the published file would hold it."""
    children = {
        name: published_module(child, source)
        for name, child in module._modules.items()
        if child is not None and not isinstance(child, nn.Identity)
    }
    if isinstance(module, nn.ModuleDict):
        published = nn.ModuleDict()
        published.__dict__["_modules"] = OrderedDict(children)
        return published
    state = {
        "training": False,
        "_parameters": OrderedDict(module._parameters),
        "_buffers": OrderedDict(module._buffers),
        "_non_persistent_buffers_set": set(),
        "_forward_hooks": OrderedDict(),
        "_modules": OrderedDict(children),
        "_init_args": (),
        "skip_scale": np.sqrt(0.5),
        **extra,
    }
    return Persistent(type(module).__name__, state, source)


def published_content(network: nn.Module, arguments: dict | None = None, source: str = "", **extra: Any) -> dict:
    """The dictionary in a published file; `arguments` are those recorded for the network."""
    arguments = dict(network.config) if arguments is None else arguments
    return {
        "ema": published_module(network, source, _init_kwargs=EasyDict(arguments), **extra),
        "loss_fn": Persistent("EDMLoss", {"P_mean": -1.2, "P_std": 1.2, "sigma_data": 0.5}, source),
        "augment_pipe": Persistent("AugmentPipe", {"p": np.float32(0.12), "xflip": 1e8}, source),
        "dataset_kwargs": EasyDict(path="cifar10-32x32.zip", use_labels=True),
    }


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    """Pickle `content` into `path`."""
    with published_modules():
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


class Call:
    """Pickles as an instruction to call `function(*arguments)`."""

    def __init__(self, function, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def storage_blob(content: Any, zipped: bool) -> bytes:
    """What stands in the place of a tensor's numbers: a file of torch.save inside the pickle."""
    blob = io.BytesIO()
    torch.save(content, blob, _use_new_zipfile_serialization=zipped)
    return blob.getvalue()


def by_name(module: str, name: str) -> bytes:
    """Hand-written pickle that looks `name` up in `module` and calls it with nothing."""
    strings = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return b"\x80\x04" + strings + b"\x93)R."
