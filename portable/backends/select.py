"""Which implementation answers: nerfacc and tiny-cuda-nn on CUDA where they work, the torch twins everywhere else."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from backends import encodings, networks, occupancy, volrend

PREFERENCES = ("auto", "torch")
_preference = "auto"

#: Encodings of tiny-cuda-nn that have a twin here with the same parameters and output.
TCNN_ENCODINGS = ("Grid", "HashGrid", "DenseGrid", "Frequency", "SphericalHarmonics", "Identity")


def prefer(preference: str) -> None:
    """``auto``: CUDA libraries where they work; ``torch``: never. Holds for what is built afterwards."""
    global _preference
    if preference not in PREFERENCES:
        raise ValueError(f"backends={preference}; choices: {', '.join(PREFERENCES)}")
    _preference = preference


@dataclass(frozen=True)
class VolumeRendering:
    """One implementation of occupancy grid and compositing; the members are called as in nerfacc 0.5, by keyword."""

    name: str
    OccGridEstimator: Callable[..., nn.Module]
    render_weight_from_density: Callable
    accumulate_along_rays: Callable


TORCH_VOLUME_RENDERING = VolumeRendering(
    name="torch",
    OccGridEstimator=occupancy.OccGridEstimator,
    render_weight_from_density=volrend.render_weight_from_density,
    accumulate_along_rays=volrend.accumulate_along_rays,
)


def volume_rendering(device: torch.device) -> VolumeRendering:
    """nerfacc on a CUDA device if its kernels are there, else the torch twin."""
    if _preference == "torch" or device.type != "cuda" or missing_nerfacc() is not None:
        return TORCH_VOLUME_RENDERING
    nerfacc = importlib.import_module("nerfacc")
    return VolumeRendering(
        name="nerfacc",
        OccGridEstimator=nerfacc.OccGridEstimator,
        render_weight_from_density=nerfacc.render_weight_from_density,
        accumulate_along_rays=nerfacc.accumulate_along_rays,
    )


def encoding(n_input_dims: int, config: Mapping[str, Any], device: torch.device) -> nn.Module:
    """Encoding with float32 output: tiny-cuda-nn's on a CUDA device if it works and has it, else the torch twin."""
    if use_tinycudann(device) and config.get("otype") in TCNN_ENCODINGS:
        tinycudann = importlib.import_module("tinycudann")
        return tinycudann.Encoding(n_input_dims, dict(config), dtype=torch.float32)
    return encodings.Encoding(n_input_dims, config)


def network(n_input_dims: int, n_output_dims: int, config: Mapping[str, Any], device: torch.device) -> nn.Module:
    """FullyFusedMLP or CutlassMLP: tiny-cuda-nn's on a CUDA device if it works, else the torch twin."""
    if use_tinycudann(device):
        tinycudann = importlib.import_module("tinycudann")
        return tinycudann.Network(n_input_dims, n_output_dims, dict(config))
    return networks.Network(n_input_dims, n_output_dims, config)


def use_tinycudann(device: torch.device) -> bool:
    """Whether tiny-cuda-nn answers on this device."""
    return _preference != "torch" and device.type == "cuda" and missing_tinycudann() is None


@functools.cache
def missing_nerfacc() -> str | None:
    """Why nerfacc cannot be used, None if it can."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:
        # nerfacc imports without its compiled part and fails at the first call
        kernels = importlib.import_module("nerfacc.cuda._backend")._C
    except ImportError as error:
        return f"cannot import nerfacc: {error}"
    return None if kernels is not None else "nerfacc is installed without its CUDA kernels"


@functools.cache
def missing_tinycudann() -> str | None:
    """Why tiny-cuda-nn cannot be used, None if it can."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:
        importlib.import_module("tinycudann")
    except (ImportError, OSError) as error:  # OSError: built for another GPU architecture
        return f"cannot import tinycudann: {error}"
    return None


def describe(device: torch.device) -> dict[str, str]:
    """Which implementation answers for what on this device, for the log."""
    return {
        "volume rendering": volume_rendering(device).name,
        "encodings and networks": "tinycudann" if use_tinycudann(device) else "torch",
    }
