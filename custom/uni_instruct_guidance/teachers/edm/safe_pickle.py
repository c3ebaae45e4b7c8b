"""Reading EDM pickles without running anything that is in them.

A pickle is a program: it names importable things and calls them. The published EDM files also carry the Python source
of their networks, meant to be executed on loading. Here a fixed table says which names may occur, and every one of
them stands for an inert class of ours that only keeps what it is given; nothing is imported, the source is never
compiled, and a name outside the table ends the reading.
"""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from .checkpoint import CheckpointError


class UnsafePickleError(CheckpointError):
    """The pickle asks for something that an EDM network does not consist of."""


class _Sealed(type):
    """Classes that a pickle cannot change: its BUILD instruction may try to set attributes on anything it can name."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise UnsafePickleError(f"it tries to change {cls.__name__}.{name}")


class _Dict(dict, metaclass=_Sealed):
    """OrderedDict and EasyDict: a dict is all that is needed of them."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Attributes beside the entries (an empty dict in files of Python 3.10 and older) are left out."""


class _Set(metaclass=_Sealed):
    def __new__(cls, items: list = ()):
        return set(_typed("set", items, list))


class StorageBytes(metaclass=_Sealed):
    """The bytes that torch would load a storage from; `storage` loads them with `weights_only`."""

    __slots__ = ("blob",)

    def __new__(cls, blob: bytes):
        self = super().__new__(cls)
        self.blob = _typed("the content of a storage", blob, bytes)
        return self

    def values(self) -> torch.Tensor:
        """All numbers of the storage, as one vector."""
        try:
            storage = torch.load(io.BytesIO(self.blob), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL (\S+)", str(error))
            what = named.group(1) if named else str(error).splitlines()[0]
            raise UnsafePickleError(f"{what} inside a tensor's storage") from None
        except Exception as error:  # a damaged blob fails in as many ways as torch has readers
            raise CheckpointError(f"a tensor's storage is damaged: {error}") from None
        if not isinstance(storage, torch.storage.TypedStorage):
            raise UnsafePickleError(f"{type(storage).__name__} in the place of a tensor's storage")
        return torch.empty(0, dtype=storage.dtype).set_(storage)


class TensorRecord(metaclass=_Sealed):
    """A view into a storage, not yet a tensor."""

    __slots__ = ("offset", "size", "storage", "stride")

    def __new__(cls, storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
        self = super().__new__(cls)
        self.storage = _typed("the storage of a tensor", storage, StorageBytes)
        self.offset = _typed("the offset of a tensor", offset, int)
        self.size, self.stride = (_integers(numbers) for numbers in (size, stride))
        return self

    def tensor(self) -> torch.Tensor:
        """The tensor, with its own memory."""
        values = self.storage.values()
        if torch.Size(self.size).numel() > len(values):
            raise CheckpointError(f"a tensor of size {list(self.size)} in a storage of {len(values)} numbers")
        try:
            return values.as_strided(self.size, self.stride, self.offset).clone(memory_format=torch.contiguous_format)
        except RuntimeError as error:
            raise CheckpointError(f"a tensor lies outside its storage: {str(error).splitlines()[0]}") from None


class _Parameter(metaclass=_Sealed):
    def __new__(cls, data, requires_grad, hooks):
        return _typed("a parameter", data, TensorRecord)


class ModuleRecord(metaclass=_Sealed):
    """A module as its class name and attributes."""

    __slots__ = ("class_name", "state")
    _name = "ModuleDict"

    def __new__(cls):
        self = super().__new__(cls)
        self.class_name, self.state = cls._name, {}
        return self

    def __setstate__(self, state: dict) -> None:
        self.state = _typed("the state of a module", state, dict)


class _Persistent(metaclass=_Sealed):
    """An object that travels with its own source code; the code (`module_src`) is left where it is."""

    def __new__(cls, meta):
        meta = _typed("a persistent object", meta, dict)
        if meta.get("type") != "class" or not isinstance(meta.get("class_name"), str):
            raise UnsafePickleError(f"a persistent object of type {meta.get('type')!r}")
        record = ModuleRecord()
        record.class_name = meta["class_name"]
        record.__setstate__(meta.get("state") or {})
        return record


class _DType(metaclass=_Sealed):
    """A NumPy type code; its state may only say "little-endian"."""

    __slots__ = ("code",)
    _codes = {"f4": "<f4", "f8": "<f8", "i4": "<i4", "i8": "<i8", "b1": "|b1"}

    def __new__(cls, code, align=False, copy=True):
        if code not in tuple(cls._codes):
            raise UnsafePickleError(f"NumPy numbers of type {code!r}; known are {', '.join(cls._codes)}")
        self = super().__new__(cls)
        self.code = cls._codes[code]
        return self

    def __setstate__(self, state: tuple) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
            raise UnsafePickleError("NumPy numbers that are not little-endian")


class _Scalar(metaclass=_Sealed):
    def __new__(cls, dtype, raw):
        import numpy as np

        code = _typed("a NumPy number", dtype, _DType).code
        return np.frombuffer(_typed("a NumPy number", raw, bytes), code, count=1)[0].item()


# What the published files name, and the inert class that stands for it.
ALLOWED: dict[tuple[str, str], type] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Persistent,
    ("dnnlib.util", "EasyDict"): _Dict,
    ("collections", "OrderedDict"): _Dict,
    ("builtins", "set"): _Set,
    ("torch.nn.modules.container", "ModuleDict"): ModuleRecord,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    ("torch._utils", "_rebuild_tensor_v2"): TensorRecord,
    ("torch.storage", "_load_from_bytes"): StorageBytes,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,  # NumPy 2
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        """The inert class of an allowed name; the name is looked up as a whole, never imported or taken apart."""
        if (module, name) not in ALLOWED:
            raise UnsafePickleError(f"{module}.{name}")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError("a reference to something outside the file")


def read_edm_pickle(path: str | Path) -> Any:
    """The content of an EDM pickle, with `ModuleRecord` for modules and `TensorRecord` for tensors.

    Raises:
        UnsafePickleError: it names something that is not in `ALLOWED`.
        CheckpointError: the file is missing, cut off or not a pickle.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _Reader(file).load()
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path}: refused, not part of an EDM network: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # damaged pickles fail in many ways: EOF, opcodes, stack, encodings, arguments, memory
        raise CheckpointError(f"{path}: not a pickle, or damaged: {error or type(error).__name__}") from None


def _typed(what: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise UnsafePickleError(f"{type(value).__name__} in the place of {what}")
    return value


def _integers(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, tuple) or not all(type(n) is int and n >= 0 for n in numbers):
        raise UnsafePickleError("a tensor whose size or stride is not a tuple of integers")
    return numbers
