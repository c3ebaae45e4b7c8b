"""Input encodings and small networks, built from a configuration's ``otype``.

State-dict names are the reference's, so its weights load: ``encoding.encoding.params`` for a hash grid,
``layers.0.weight``, ``layers.2.weight``… for a plain MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from backends import networks as torch_networks
from backends import select
from backends.dense_grid import DenseGridPyramid
from backends.encodings import KEYS, BandFrequency, band_mask
from threestudio.utils.base import Updateable
from threestudio.utils.config import config_to_primitive
from threestudio.utils.errors import UnknownKeyError, UserError
from threestudio.utils.misc import get_device
from threestudio.utils.ops import get_activation
from threestudio.utils.typing import Float, Tensor


def hash_grid() -> dict[str, Any]:
    """Encoding of a geometry that names none: sixteen levels, from 16 cells a side to 4096 (16 · s^15)."""
    return {
        "otype": "HashGrid",
        "n_levels": 16,
        "n_features_per_level": 2,
        "log2_hashmap_size": 19,
        "base_resolution": 16,
        "per_level_scale": 1.447269237440378,
    }


def small_mlp() -> dict[str, Any]:
    """Network of a geometry that names none: one hidden layer of 64."""
    return {
        "otype": "VanillaMLP",
        "activation": "ReLU",
        "output_activation": "none",
        "n_neurons": 64,
        "n_hidden_layers": 1,
    }


def open_levels(config: Mapping[str, Any], n_levels: int, global_step: int) -> int:
    """Levels in use at this step: ``start_level``, and one more every ``update_steps`` from ``start_step`` on."""
    opened = max(global_step - config["start_step"], 0) // config["update_steps"]
    return min(config["start_level"] + opened, n_levels)


class ProgressiveBandFrequency(nn.Module, Updateable):
    """Sines and cosines at frequencies 2^k, k < ``n_frequencies``; band after band opens over ``n_masking_step`` steps.

    Without ``n_masking_step`` (0) all bands are open from the start.
    """

    def __init__(self, in_channels: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.n_frequencies = config["n_frequencies"]
        self.n_masking_step = config.get("n_masking_step", 0)
        self.waves = BandFrequency(in_channels, self.n_frequencies)
        self.n_input_dims, self.n_output_dims = in_channels, self.waves.n_output_dims
        self.update_mask(None)

    def forward(self, x: Float[Tensor, "*N Di"]) -> Float[Tensor, "*N Do"]:
        return self.waves(x, self.mask)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.update_mask(global_step)

    def update_mask(self, global_step: int | None) -> None:
        """Open the bands as far as they are at this step; None: all of them."""
        masked = self.n_masking_step > 0 and global_step is not None
        progress = global_step / self.n_masking_step if masked else 1.0
        self.mask = band_mask(self.n_frequencies, progress)


class TCNNEncoding(nn.Module):
    """Encoding by tiny-cuda-nn's configuration: that library on CUDA if installed, its torch twin elsewhere."""

    def __init__(self, in_channels: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoding = select.encoding(in_channels, config, get_device())
        self.n_input_dims, self.n_output_dims = in_channels, self.encoding.n_output_dims

    def forward(self, x: Float[Tensor, "*N Di"]) -> Float[Tensor, "*N Do"]:
        return self.encoding(x)


class ProgressiveBandHashGrid(nn.Module, Updateable):
    """Hash grid whose levels open one by one; closed levels give zeros.

    Beside the hash grid's keys: ``start_level``, ``start_step``, ``update_steps``.
    """

    def __init__(self, in_channels: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = {**config, "otype": "HashGrid"}
        schedule = {key: self.config.pop(key) for key in ("start_level", "start_step", "update_steps")}
        self.schedule = schedule
        self.encoding = select.encoding(in_channels, self.config, get_device())
        self.n_input_dims, self.n_output_dims = in_channels, self.encoding.n_output_dims
        self.n_level, self.n_features_per_level = config["n_levels"], config["n_features_per_level"]
        self.current_level = schedule["start_level"]

    def forward(self, x: Float[Tensor, "*N Di"]) -> Float[Tensor, "*N Do"]:
        opened = torch.arange(self.n_output_dims, device=x.device) < self.current_level * self.n_features_per_level
        return self.encoding(x) * opened

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.current_level = open_levels(self.schedule, self.n_level, global_step)


class ProgressiveGridPyramid(DenseGridPyramid, Updateable):
    """:class:`backends.dense_grid.DenseGridPyramid`; with ``update_steps`` its levels open one by one.

    Optional keys as in :class:`ProgressiveBandHashGrid`: ``start_level`` (1), ``start_step`` (0), ``update_steps``.
    While fine levels are closed, rendering costs less.
    """

    def __init__(self, in_channels: int, config: Mapping[str, Any]) -> None:
        super().__init__(in_channels, config)
        self.schedule = {"start_level": 1, "start_step": 0, **config} if "update_steps" in config else None
        if self.schedule is not None:
            self.n_active_levels = self.schedule["start_level"]

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        if self.schedule is not None:
            self.n_active_levels = open_levels(self.schedule, self.n_levels, global_step)


class CompositeEncoding(nn.Module, Updateable):
    """An encoding, with the scaled input itself in front if ``include_xyz``."""

    def __init__(
        self, encoding: nn.Module, include_xyz: bool = False, xyz_scale: float = 2.0, xyz_offset: float = -1.0
    ) -> None:
        super().__init__()
        self.encoding = encoding
        self.include_xyz, self.xyz_scale, self.xyz_offset = include_xyz, xyz_scale, xyz_offset
        self.n_input_dims = encoding.n_input_dims
        self.n_output_dims = encoding.n_output_dims + (encoding.n_input_dims if include_xyz else 0)

    def forward(self, x: Float[Tensor, "*N Di"]) -> Float[Tensor, "*N Do"]:
        encoded = self.encoding(x)
        return torch.cat([x * self.xyz_scale + self.xyz_offset, encoded], dim=-1) if self.include_xyz else encoded


#: ``otype`` of encodings that follow the training step; every other one is :class:`TCNNEncoding`'s.
ENCODINGS: dict[str, Callable[[int, Mapping[str, Any]], nn.Module]] = {
    "ProgressiveBandFrequency": ProgressiveBandFrequency,
    "ProgressiveBandHashGrid": ProgressiveBandHashGrid,
    "DenseGridPyramid": ProgressiveGridPyramid,
}


def get_encoding(n_input_dims: int, config: DictConfig | Mapping[str, Any]) -> nn.Module:
    """Encoding of points in the unit cube by ``config.otype``; ``include_xyz`` adds the point itself.

    Raises:
        ValueError: unknown ``otype`` or a value that it does not take.
    """
    config = _primitive(config)
    build = ENCODINGS.get(config.get("otype"), TCNNEncoding)
    encoder_config = {key: value for key, value in config.items() if key != "include_xyz"}
    try:
        encoding = build(n_input_dims, encoder_config)
    except (ValueError, KeyError) as error:
        reason = f"{config.get('otype')} needs the key {error}" if isinstance(error, KeyError) else str(error)
        known = ", ".join(name for name in ENCODINGS if name != "DenseGridPyramid")
        raise UserError(f"encoding configuration: {reason} (also: {known})") from error
    return CompositeEncoding(encoding, include_xyz=config.get("include_xyz", False))


class VanillaMLP(torch_networks.MLP):
    """MLP without biases, full precision: ``n_neurons``, ``n_hidden_layers``, ``activation``, ``output_activation``."""

    def __init__(self, dim_in: int, dim_out: int, config: Mapping[str, Any]) -> None:
        super().__init__(dim_in, dim_out, config)
        self.output_activation = get_activation(config.get("output_activation"))

    def forward(self, x: Float[Tensor, "*N Di"]) -> Float[Tensor, "*N Do"]:
        # densities reach 1e3: half precision is too coarse
        with torch.autocast(device_type=x.device.type, enabled=False):
            return self.output_activation(super().forward(x.to(self.layers[0].weight.dtype)))


class Linear(VanillaMLP):
    """One linear map without bias: reads density or colour straight from the features of a grid."""

    def __init__(self, dim_in: int, dim_out: int, config: Mapping[str, Any]) -> None:
        super().__init__(dim_in, dim_out, {**config, "n_hidden_layers": 0})


class TCNNNetwork(nn.Module):
    """MLP by tiny-cuda-nn's configuration: that library on CUDA if installed, its twin elsewhere. Gives float32."""

    def __init__(self, dim_in: int, dim_out: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = select.network(dim_in, dim_out, config, get_device())

    def forward(self, x: Float[Tensor, "*N Di"]) -> Float[Tensor, "*N Do"]:
        return self.network(x).float()


#: ``otype`` -> network.
NETWORKS: dict[str, Callable[[int, int, Mapping[str, Any]], nn.Module]] = {
    "VanillaMLP": VanillaMLP,
    "Linear": Linear,
    "FullyFusedMLP": TCNNNetwork,
    "CutlassMLP": TCNNNetwork,
}


def get_mlp(n_input_dims: int, n_output_dims: int, config: DictConfig | Mapping[str, Any]) -> nn.Module:
    """Network by ``config.otype``.

    Raises:
        ValueError: unknown ``otype`` or activation.
    """
    config = _primitive(config)
    otype = config.get("otype")
    if otype not in NETWORKS:
        raise UserError(f"network configuration: otype={otype}; choices: {', '.join(NETWORKS)}")
    return NETWORKS[otype](n_input_dims, n_output_dims, config)


class NetworkWithInputEncoding(nn.Module, Updateable):
    """``network(encoding(x))``."""

    def __init__(self, encoding: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.encoding, self.network = encoding, network

    def forward(self, x: Float[Tensor, "*N Di"]) -> Float[Tensor, "*N Do"]:
        return self.network(self.encoding(x))


def create_network_with_input_encoding(
    n_input_dims: int, n_output_dims: int, encoding_config: Mapping[str, Any], network_config: Mapping[str, Any]
) -> NetworkWithInputEncoding:
    """Encoding and network in one module."""
    encoding = get_encoding(n_input_dims, encoding_config)
    return NetworkWithInputEncoding(encoding, get_mlp(encoding.n_output_dims, n_output_dims, network_config))


#: Keys that a network takes beside ``otype``.
NETWORK_KEYS = ("activation", "output_activation", "n_neurons", "n_hidden_layers")
#: Keys that the encodings above take beside those of :data:`backends.encodings.KEYS`.
LEVEL_KEYS = ("start_level", "start_step", "update_steps")
ENCODING_KEYS: dict[str, tuple[str, ...]] = {
    **KEYS,
    "ProgressiveBandFrequency": ("n_frequencies", "n_masking_step"),
    "ProgressiveBandHashGrid": (*KEYS["HashGrid"], *LEVEL_KEYS),
    "DenseGridPyramid": (*KEYS["DenseGridPyramid"], *LEVEL_KEYS),
}


def check_encoding(config: DictConfig | Mapping[str, Any], key: str) -> None:
    """Refuse an unknown ``otype`` and keys that it does not take; ``key`` is where the configuration stands.

    Raises:
        ValueError: with the key and the choices.
    """
    otype = config.get("otype")
    if otype not in ENCODING_KEYS:
        raise UserError(f"{key}.otype={otype} is unknown; choices: {', '.join(ENCODING_KEYS)}")
    _require_keys(config, ("otype", "include_xyz", *ENCODING_KEYS[otype]), key)


def check_network(config: DictConfig | Mapping[str, Any], key: str) -> None:
    """The same for a network."""
    otype = config.get("otype")
    if otype not in NETWORKS:
        raise UserError(f"{key}.otype={otype} is unknown; choices: {', '.join(NETWORKS)}")
    _require_keys(config, ("otype", *NETWORK_KEYS), key)


def _require_keys(config: Mapping[str, Any], choices: tuple[str, ...], key: str) -> None:
    unknown = [str(name) for name in config if name not in choices]
    if unknown:
        near = [match for name in unknown for match in get_close_matches(name, choices, n=1)]
        hint = f" (did you mean {', '.join(near)}?)" if near else ""
        raise UnknownKeyError(f"{key} has no key {', '.join(unknown)}{hint}; its keys: {', '.join(choices)}")


def _primitive(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    return config_to_primitive(config) if isinstance(config, DictConfig) else dict(config)
