"""Less memory for more time: knobs of diffusers' networks that change no number beyond rounding, but for tiling."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .teacher import Teacher


@dataclass
class MemoryConfig:
    """What a step gives up for memory.

    gradient_checkpointing: keep no activations inside the blocks of U-Nets and VAE encoder; the way back computes them
        anew, about a third more time where gradients pass through the networks. Same numbers.
    attention_slicing: attention of one half of the heads at a time; for devices without fused attention. Same numbers.
    vae_tiling: encode and decode pictures in overlapping tiles of half their side; their seams are blended, so the
        latents differ a little. It bounds what one tile needs, not what the way back keeps.
    """

    gradient_checkpointing: bool = False
    attention_slicing: bool = False
    vae_tiling: bool = False


def save_memory(cfg: MemoryConfig, teacher: Teacher, fake: nn.Module | None) -> None:
    """Turn the knobs of networks that are built already; `fake`: the fake score's U-Net.

    Raises:
        ValueError: slices of the attention of a multi-view teacher, which goes over groups of rows.
    """
    unets, vae = [teacher.unet, *([] if fake is None else [fake])], teacher.vae
    if cfg.attention_slicing and teacher.n_views > 1:
        raise ValueError(
            f"memory.attention_slicing=true: the teacher {teacher.name!r} attends over {teacher.n_views} views "
            "together, in no slices; set it to false"
        )
    if cfg.gradient_checkpointing:
        for network in (*unets, vae):
            network.enable_gradient_checkpointing()
    if cfg.attention_slicing:
        for unet in unets:
            unet.set_attention_slice("auto")
    if cfg.vae_tiling:
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        side = max(teacher.image_size // 2 // factor, 1) * factor
        vae.tile_sample_min_size, vae.tile_latent_min_size = side, side // factor
        vae.enable_tiling()
