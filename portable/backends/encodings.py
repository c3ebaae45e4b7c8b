"""Input encodings by tiny-cuda-nn's configuration: :func:`Encoding` is the twin of ``tinycudann.Encoding``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from backends.dense_grid import DenseGridPyramid
from backends.hash_grid import HashGrid


def band_mask(n_bands: int, progress: float) -> Float[Tensor, "b"]:
    """Soft opening of frequency bands, ½(1 - cos(π clip(b·progress - k, 0, 1))) (Nerfies, arXiv 2011.12948, Eq. 8).

    Args:
        n_bands: number b of bands.
        progress: 0 (all closed) to 1 (all open).
    """
    opened = (n_bands * progress - torch.arange(n_bands)).clamp(0, 1)
    return (1 - torch.cos(math.pi * opened)) / 2


class BandFrequency(nn.Module):
    """Sines and cosines at frequencies 2^k, k = 0 … n_frequencies - 1, without π, each band times a mask.

    Output order: for each k, the sines of all inputs, then the cosines of all inputs.
    """

    def __init__(self, n_input_dims: int, n_frequencies: int):
        super().__init__()
        self.n_input_dims = n_input_dims
        self.n_frequencies = n_frequencies
        self.n_output_dims = 2 * n_input_dims * n_frequencies
        self.register_buffer("frequencies", 2.0 ** torch.arange(n_frequencies), persistent=False)

    def forward(self, x: Float[Tensor, "*n d"], mask: Float[Tensor, "b"] | None = None) -> Float[Tensor, "*n f"]:
        angles = x[..., None, :] * self.frequencies[:, None].to(x.dtype)
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (*n, b, 2d)
        if mask is not None:
            waves = waves * mask.to(waves)[:, None]
        return waves.flatten(-2)


class Frequency(nn.Module):
    """tiny-cuda-nn's NeRF encoding, sin(2^k π x) and cos(2^k π x) for each input, k < ``n_frequencies`` (12)."""

    def __init__(self, n_input_dims: int, encoding_config: Mapping[str, Any]):
        super().__init__()
        n_frequencies = encoding_config.get("n_frequencies", 12)
        self.n_input_dims = n_input_dims
        self.n_output_dims = 2 * n_input_dims * n_frequencies
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(n_frequencies), persistent=False)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n f"]:
        angles = x[..., None] * self.frequencies.to(x.dtype)
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


class SphericalHarmonics(nn.Module):
    """Real orthonormal spherical harmonics of a direction given in the unit cube (d = 2x - 1); ``degree`` 1 to 4 bands.

    Signs and order are tiny-cuda-nn's (Condon-Shortley phase, m from -l to l within each band l).
    """

    MAX_DEGREE = 4

    def __init__(self, n_input_dims: int, encoding_config: Mapping[str, Any]):
        super().__init__()
        self.degree = encoding_config.get("degree", 4)
        if n_input_dims != 3:
            raise ValueError(f"SphericalHarmonics: n_input_dims={n_input_dims}; choices: 3")
        if not 1 <= self.degree <= self.MAX_DEGREE:
            raise ValueError(f"SphericalHarmonics: degree={self.degree}; choices: 1 to {self.MAX_DEGREE}")
        self.n_input_dims = n_input_dims
        self.n_output_dims = self.degree**2

    def forward(self, x: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n f"]:
        x, y, z = (2 * x - 1).unbind(-1)
        xx, yy, zz = x * x, y * y, z * z
        pi = math.pi
        bands = [
            lambda: [torch.full_like(x, math.sqrt(1 / pi) / 2)],
            lambda: [-math.sqrt(3 / pi) / 2 * y, math.sqrt(3 / pi) / 2 * z, -math.sqrt(3 / pi) / 2 * x],
            lambda: [
                math.sqrt(15 / pi) / 2 * x * y,
                -math.sqrt(15 / pi) / 2 * y * z,
                math.sqrt(5 / pi) / 4 * (3 * zz - 1),
                -math.sqrt(15 / pi) / 2 * x * z,
                math.sqrt(15 / pi) / 4 * (xx - yy),
            ],
            lambda: [
                math.sqrt(35 / (2 * pi)) / 4 * y * (yy - 3 * xx),
                math.sqrt(105 / pi) / 2 * x * y * z,
                math.sqrt(21 / (2 * pi)) / 4 * y * (1 - 5 * zz),
                math.sqrt(7 / pi) / 4 * z * (5 * zz - 3),
                math.sqrt(21 / (2 * pi)) / 4 * x * (1 - 5 * zz),
                math.sqrt(105 / pi) / 4 * z * (xx - yy),
                math.sqrt(35 / (2 * pi)) / 4 * x * (3 * yy - xx),
            ],
        ]
        return torch.stack([value for band in bands[: self.degree] for value in band()], dim=-1)


class Identity(nn.Module):
    """The input itself."""

    def __init__(self, n_input_dims: int, encoding_config: Mapping[str, Any]):
        super().__init__()
        self.n_input_dims = self.n_output_dims = n_input_dims

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return x


def _typed_grid(kind: str) -> Callable[[int, Mapping[str, Any]], HashGrid]:
    return lambda n_input_dims, config: HashGrid(n_input_dims, {**config, "type": kind})


#: ``otype`` -> encoding; the first block is tiny-cuda-nn's, the last line exists here only.
ENCODINGS: dict[str, Callable[[int, Mapping[str, Any]], nn.Module]] = {
    "Grid": HashGrid,
    "HashGrid": _typed_grid("Hash"),
    "DenseGrid": _typed_grid("Dense"),
    "Frequency": Frequency,
    "SphericalHarmonics": SphericalHarmonics,
    "Identity": Identity,
    "DenseGridPyramid": DenseGridPyramid,
}

_GRID_KEYS = ("n_levels", "n_features_per_level", "log2_hashmap_size", "base_resolution", "per_level_scale",
              "interpolation")  # fmt: skip

#: ``otype`` -> keys beside it.
KEYS: dict[str, tuple[str, ...]] = {
    "Grid": ("type", *_GRID_KEYS),
    "HashGrid": _GRID_KEYS,
    "DenseGrid": _GRID_KEYS,
    "Frequency": ("n_frequencies",),
    "SphericalHarmonics": ("degree",),
    "Identity": (),
    "DenseGridPyramid": ("n_levels", "n_features_per_level", "base_resolution", "init_std"),
}


def Encoding(
    n_input_dims: int,
    encoding_config: Mapping[str, Any],
    seed: int | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Encoding of points in the unit cube, with ``n_input_dims`` and ``n_output_dims``.

    Args:
        encoding_config: ``otype`` (a key of :data:`ENCODINGS`) and that encoding's keys.
        seed: of the initial parameters; None: the global generator.
        dtype: of parameters and output; None: torch's default. (tiny-cuda-nn's default is half precision.)
    """
    otype = encoding_config.get("otype")
    if otype not in ENCODINGS:
        raise ValueError(f"encoding otype={otype}; choices: {', '.join(ENCODINGS)}")
    if seed is None:
        encoding = ENCODINGS[otype](n_input_dims, encoding_config)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoding = ENCODINGS[otype](n_input_dims, encoding_config)
    return encoding if dtype is None else encoding.to(dtype)
