"""The networks by name, and how a network is made from a name or a dictionary."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import choose, require_known
from .precond import UNETS, EDMPrecond

# DDPM++ as EDM trains it for CIFAR-10 (55.7 M); augment_dim is the width of its augmentation label, which the
# published weights carry and which stays unused without augmentation.
_CIFAR10 = dict(
    model_type="SongUNet", img_resolution=32, img_channels=3, augment_dim=9, model_channels=128, channel_mult=(2, 2, 2),
    dropout=0.13,
)  # fmt: skip
# 8×8 pictures with one channel: small enough for two CPU cores. Attention only where both halves meet, at 4×4.
_DIGITS = dict(
    model_type="SongUNet", img_resolution=8, img_channels=1, model_channels=32, channel_mult=(1, 2), num_blocks=1,
    attn_resolutions=(), dropout=0.0,
)  # fmt: skip

# label_dim: classes. Everything that is not named keeps the default of EDMPrecond and of its U-Net.
EDM_PRESETS: dict[str, dict[str, Any]] = {
    "cifar10-uncond": dict(_CIFAR10, label_dim=0),
    "cifar10-cond": dict(_CIFAR10, label_dim=10),
    "imagenet64": dict(model_type="DhariwalUNet", img_resolution=64, img_channels=3, label_dim=1000),  # ADM, 295.9 M
    "digits-uncond": dict(_DIGITS, label_dim=0),
    "digits-cond": dict(_DIGITS, label_dim=10),
    "tiny": dict(_DIGITS, label_dim=0, model_channels=8, attn_resolutions=(4,)),  # for tests
}


def _is(kind: type | tuple[type, ...], value: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


_POSITIVE = ("a positive integer", lambda v: _is(int, v) and v > 0)
_COUNT = ("an integer, 0 for none", lambda v: _is(int, v) and v >= 0)
_SIZES = ("a list of positive integers", lambda v: isinstance(v, tuple) and all(_is(int, n) and n > 0 for n in v))
_ANYTHING = ("", lambda v: True)

# What a value must be: in words, and as a test.
RULES = {
    **dict.fromkeys(["img_resolution", "img_channels", "model_channels", "num_blocks"], _POSITIVE),
    **dict.fromkeys(["channel_mult_emb", "channel_mult_noise"], _POSITIVE),
    **dict.fromkeys(["label_dim", "augment_dim"], _COUNT),
    "channel_mult": ("at least one positive integer in a list", lambda v: v != () and _SIZES[1](v)),
    "attn_resolutions": _SIZES,
    "resample_filter": ("a list of numbers", lambda v: isinstance(v, tuple) and all(_is((int, float), n) for n in v)),
    "dropout": ("a probability below 1", lambda v: _is((int, float), v) and 0 <= v < 1),
    "sigma_data": ("a positive number", lambda v: _is((int, float), v) and v > 0),
    "sigma_min": ("a number, 0 or more", lambda v: _is((int, float), v) and v >= 0),
    "sigma_max": ("a positive number", lambda v: _is((int, float), v) and v > 0),
    "use_fp16": ("true or false", lambda v: isinstance(v, bool)),
}


def build_network(network: str | Mapping[str, Any], **overrides: Any) -> EDMPrecond:
    """An EDM network with fresh weights.

    Args:
        network: a name of `EDM_PRESETS`, or a dictionary of arguments of `EDMPrecond` and its U-Net; the dictionary
            may name a preset under "preset" and change single values of it.
        overrides: single values changed on top, e.g. dropout=0.0, use_fp16=True.

    Raises:
        ValueError: an unknown preset, model_type or argument; it is named together with the choices.
    """
    if isinstance(network, Mapping):
        config = dict(network)
        preset = config.pop("preset", None)
        config = {**(choose("network.preset", preset, EDM_PRESETS) if preset is not None else {}), **config}
    else:
        config = dict(choose("network", network, EDM_PRESETS))
    config.update(overrides)
    unet = choose("network.model_type", config.get("model_type"), UNETS)
    require_known("network", config, [*_arguments(EDMPrecond), *(a for a in _arguments(unet) if a not in _GIVEN)])
    for key in ("img_resolution", "img_channels"):
        if key not in config:
            raise ValueError(f"network.{key} is missing; a preset would give it: {', '.join(EDM_PRESETS)}")
    config = {key: _plain(value) for key, value in config.items()}
    for key, value in config.items():
        expected, holds = RULES.get(key, _ANYTHING)
        if not holds(value):
            raise ValueError(f"network.{key}={value!r}; expected {expected}")
    return EDMPrecond(**config)


_GIVEN = ("in_channels", "out_channels")  # EDMPrecond passes img_channels for both


def _arguments(cls: type) -> list[str]:
    parameters = inspect.signature(cls.__init__).parameters.values()
    return [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]


def _plain(value: Any) -> Any:
    """Lists of a YAML file as tuples of plain numbers."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
