"""The dense pyramid as an encoding of whichever host runs: threestudio proper hands unknown names to tiny-cuda-nn."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from threestudio.models import networks

PYRAMID = "DenseGridPyramid"


def host_knows_pyramid() -> bool:
    """Whether ``otype: DenseGridPyramid`` can be given to the host as it is: built-in host, or stand-in libraries."""
    tables = (getattr(module, "ENCODINGS", ()) for module in (networks, sys.modules.get("tinycudann")))
    return any(PYRAMID in table for table in tables)


class SummedLevels(nn.Module):
    """Levels of a dense grid added up: what :data:`PYRAMID` computes, out of tiny-cuda-nn's own encoding.

    Args:
        levels: encoding of n_levels · n_features outputs, level after level.
        n_levels: number of levels.
    """

    def __init__(self, levels: nn.Module, n_levels: int) -> None:
        super().__init__()
        self.levels, self.n_levels = levels, n_levels
        self.n_output_dims = levels.n_output_dims // n_levels

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        return self.levels(x).unflatten(-1, (self.n_levels, -1)).sum(-2)


def in_tcnn_words(config: Mapping[str, Any]) -> dict[str, Any]:
    """The pyramid's configuration as one of tiny-cuda-nn's dense grids: the same levels and nodes, side by side."""
    return {
        "otype": "DenseGrid",
        "n_levels": config.get("n_levels", 4),
        "n_features_per_level": config.get("n_features_per_level", 4),
        "base_resolution": config.get("base_resolution", 8),
        "per_level_scale": 2.0,
    }


class PyramidEncoding:
    """Mixin before a stock geometry: ``pos_encoding_config.otype`` may be the pyramid in any host.

    Where the host does not know it, the stock geometry is built on a dense grid, and its networks are built anew on the
    sums of that grid's levels.
    """

    #: networks that read the encoding -> field or number of their outputs.
    READERS = {"density_network": 1, "normal_network": 3, "feature_network": "n_feature_dims"}

    def configure(self) -> None:
        asked = dict(self.cfg.pos_encoding_config)
        if asked["otype"] != PYRAMID or host_knows_pyramid():
            super().configure()
            return
        self.cfg.pos_encoding_config = in_tcnn_words(asked)
        super().configure()
        self.cfg.pos_encoding_config = asked
        if not hasattr(self, "encoding"):  # a grid with geometry_only has no features
            return
        self.encoding = SummedLevels(self.encoding, asked.get("n_levels", 4))
        for name, outputs in self.READERS.items():
            if hasattr(self, name):
                n_outputs = self.cfg[outputs] if isinstance(outputs, str) else outputs
                reader = networks.get_mlp(self.encoding.n_output_dims, n_outputs, self.cfg.mlp_network_config)
                setattr(self, name, reader)
