"""Read encoder features out of a diffusers U-Net in the same forward pass that gives the score."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress

from torch import Tensor, nn


class _EncoderDone(Exception):
    """Thrown by the middle block's hook to leave the forward pass before the decoder."""


def feature_blocks(unet: nn.Module) -> dict[str, nn.Module]:
    """Names a discriminator may read: `down.0` … `down.N` and `mid`."""
    blocks = {f"down.{i}": block for i, block in enumerate(unet.down_blocks)}
    return blocks | {"mid": unet.mid_block}


def feature_channels(unet: nn.Module) -> dict[str, int]:
    """Channels of each block's output."""
    widths = list(unet.config.block_out_channels)
    return {f"down.{i}": width for i, width in enumerate(widths)} | {"mid": widths[-1]}


@contextmanager
def captured_features(unet: nn.Module, names: list[str], encoder_only: bool = False):
    """Within the context every forward of this thread fills the yielded dict name -> [B, C, h, w].

    With `encoder_only` the forward stops after the middle block: run it through `run_encoder`.

    Raises:
        ValueError: an unknown block name, with the choices.
    """
    blocks = feature_blocks(unet)
    unknown = sorted(set(names) - set(blocks))
    if unknown:
        raise ValueError(f"discriminator features {unknown}; choices: {list(blocks)}")
    features: dict[str, Tensor] = {}
    here = threading.get_ident()  # another thread may be asking the same network

    def keep(name: str):
        def hook(_module, _args, output):
            if threading.get_ident() == here:
                features[name] = output[0] if isinstance(output, tuple) else output

        return hook

    def leave(_module, _args, _output):
        if threading.get_ident() == here:
            raise _EncoderDone

    handles = [blocks[name].register_forward_hook(keep(name)) for name in names]
    if encoder_only:
        handles.append(blocks["mid"].register_forward_hook(leave))
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


def run_encoder(unet: nn.Module, names: list[str], *args, **kwargs) -> dict[str, Tensor]:
    """Features alone, without paying for the decoder."""
    with captured_features(unet, names, encoder_only=True) as features, suppress(_EncoderDone):
        unet(*args, **kwargs)
    return dict(features)
