"""SongUNet (DDPM++, NCSN++) and DhariwalUNet (ADM) with the parameter names and shapes of the published EDM weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...core.errors import choose
from .block import ADM, SONG
from .layers import Conv2d, FourierEmbedding, GroupNorm, Linear, PositionalEmbedding
from .unet import UNet, initialised, name


class SongUNet(UNet):
    """DDPM++ and NCSN++ (arXiv 2011.13456) with the options that EDM trains.

    Args:
        img_resolution, in_channels, out_channels: of the pictures.
        label_dim, augment_dim: entries of the class and augmentation labels; 0 for none.
        model_channels, channel_mult: channels of level i are model_channels · channel_mult[i].
        channel_mult_emb, channel_mult_noise: channels of the embedding and of the noise features, same unit.
        num_blocks, attn_resolutions, dropout: see `UNet`.
        embedding_type: positional (DDPM++) | fourier (NCSN++).
        encoder_type: standard (DDPM++) | residual (NCSN++).
        resample_filter: (1, 1) for DDPM++, (1, 3, 3, 1) for NCSN++.
    """

    EMBEDDINGS = {
        "positional": partial(PositionalEmbedding, reach_end=True, sine_first=True),
        "fourier": FourierEmbedding,
    }
    ENCODERS = {"standard": False, "residual": True}

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        resample_filter: Sequence[int] = (1, 1),
    ) -> None:
        emb, noise = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        super().__init__(
            img_resolution, in_channels, first=model_channels, widths=[model_channels * m for m in channel_mult],
            num_blocks=num_blocks, attn_resolutions=attn_resolutions, attend_all=False, style=SONG, emb_channels=emb,
            dropout=dropout, taps=resample_filter, pyramid=choose("encoder_type", encoder_type, self.ENCODERS),
        )  # fmt: skip
        self.map_noise = choose("embedding_type", embedding_type, self.EMBEDDINGS)(noise)
        self.map_label = initialised(Linear(label_dim, noise), SONG) if label_dim else None
        self.map_augment = initialised(Linear(augment_dim, noise, bias=False), SONG) if augment_dim else None
        self.map_layer0 = initialised(Linear(noise, emb), SONG)
        self.map_layer1 = initialised(Linear(emb, emb), SONG)
        self.dec[name(img_resolution, "aux_norm")] = GroupNorm(self.out_width, SONG.eps)
        self.dec[name(img_resolution, "aux_conv")] = Conv2d(self.out_width, out_channels, 3)
        SONG.init_last(self.dec[name(img_resolution, "aux_conv")])

    def embed(self, c_noise, class_labels, augment_labels) -> Float[Tensor, "B E"]:
        emb = self.map_noise(c_noise)
        if self.map_label is not None:
            # √label_dim gives a one-hot label unit variance per entry, which Xavier's weights expect.
            emb = emb + self.map_label(class_labels * self.map_label.in_features**0.5)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def head(self, x) -> Float[Tensor, "B D H W"]:
        res = self.resolutions[0]
        return self.dec[name(res, "aux_conv")](F.silu(self.dec[name(res, "aux_norm")](x)))


class DhariwalUNet(UNet):
    """ADM (arXiv 2105.05233); arguments as `SongUNet`."""

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.1,
    ) -> None:
        emb, widths = model_channels * channel_mult_emb, [model_channels * m for m in channel_mult]
        super().__init__(
            img_resolution, in_channels, first=widths[0], widths=widths, num_blocks=num_blocks,
            attn_resolutions=attn_resolutions, attend_all=True, style=ADM, emb_channels=emb, dropout=dropout,
        )  # fmt: skip
        self.map_noise = PositionalEmbedding(model_channels, reach_end=False, sine_first=False)
        self.map_augment = Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = initialised(Linear(model_channels, emb), ADM)
        self.map_layer1 = initialised(Linear(emb, emb), ADM)
        self.map_label = Linear(label_dim, emb, bias=False) if label_dim else None
        self.out_norm = GroupNorm(self.out_width, ADM.eps)
        self.out_conv = Conv2d(self.out_width, out_channels, 3)
        ADM.init_last(self.out_conv)
        if self.map_augment is not None:
            ADM.init_last(self.map_augment)
        if self.map_label is not None:
            nn.init.normal_(self.map_label.weight)  # a one-hot label picks a unit-variance row

    def embed(self, c_noise, class_labels, augment_labels) -> Float[Tensor, "B E"]:
        emb = self.map_noise(c_noise)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        return F.silu(emb if self.map_label is None else emb + self.map_label(class_labels))

    def head(self, x) -> Float[Tensor, "B D H W"]:
        return self.out_conv(F.silu(self.out_norm(x)))
