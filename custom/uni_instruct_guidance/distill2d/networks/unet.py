"""SongUNet (DDPM++, NCSN++) and DhariwalUNet (ADM) with the parameter names and shapes of the published EDM weights.

Both are one `UNet`: an encoder that halves the resolution level by level and a decoder that mirrors it. They can be
run in two halves, so that the encoder alone serves a discriminator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...core.errors import choose
from .block import ADM, SONG, BlockStyle, UNetBlock
from .layers import Conv2d, FourierEmbedding, GroupNorm, Linear, PositionalEmbedding, ResampledConv2d


class Encoded(NamedTuple):
    """What the encoder leaves: `skips` [B, C, h, w] each, the last being the deepest, and the embedding [B, E]."""

    skips: list[Tensor]
    emb: Tensor


class UNet(nn.Module, ABC):
    """Encoder and decoder; a subclass adds the embedding (`embed`) and the last layers (`head`).

    Args:
        img_resolution: pixels of the square input; each level halves it.
        in_channels: of the input.
        first: channels of the first convolution.
        widths: channels of each level, finest first.
        num_blocks: blocks per encoder level; the decoder has one more.
        attn_resolutions: resolutions whose blocks attend.
        attend_all: every decoder block of such a resolution attends; otherwise only the last one does.
        style, emb_channels, dropout, taps: of the blocks.
        pyramid: each level also gets the downsampled input, added to its first activation (NCSN++).
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        *,
        first: int,
        widths: Sequence[int],
        num_blocks: int,
        attn_resolutions: Sequence[int],
        attend_all: bool,
        style: BlockStyle,
        emb_channels: int,
        dropout: float,
        taps: Sequence[float] = (1, 1),
        pyramid: bool = False,
    ) -> None:
        super().__init__()
        depth = len(widths)
        if img_resolution % (1 << (depth - 1)):
            raise ValueError(
                f"img_resolution={img_resolution} cannot be halved {depth - 1} times for the {depth} entries of "
                "channel_mult"
            )
        self.resolutions = [img_resolution >> level for level in range(depth)]
        self.num_blocks, self.pyramid, self.feature_channels = num_blocks, pyramid, widths[-1]
        block = partial(UNetBlock, emb_channels=emb_channels, style=style, dropout=dropout, taps=tuple(taps))

        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        c, c_input, skips = in_channels, in_channels, []
        for level, (res, width) in enumerate(zip(self.resolutions, widths)):
            if level == 0:
                self.enc[_name(res, "conv")] = _initialised(Conv2d(c, first, 3), style)
                c = first
            else:
                self.enc[_name(res, "down")] = block(c, c, resample="down")
            if level and pyramid:
                layer = ResampledConv2d(c_input, c, 3, taps, up=False, conv_first=True)
                self.enc[_name(res, "aux_residual")] = _initialised(layer, style)
                c_input = c
            skips.append(c)
            for i in range(num_blocks):
                self.enc[_name(res, f"block{i}")] = block(c, width, attention=res in attn_resolutions)
                c = width
                skips.append(c)

        for level, (res, width) in reversed(list(enumerate(zip(self.resolutions, widths)))):
            if level == depth - 1:
                self.dec[_name(res, "in0")] = block(c, c, attention=True)
                self.dec[_name(res, "in1")] = block(c, c)
            else:
                self.dec[_name(res, "up")] = block(c, c, resample="up")
            for i in range(num_blocks + 1):
                attention = res in attn_resolutions and (attend_all or i == num_blocks)
                self.dec[_name(res, f"block{i}")] = block(c + skips.pop(), width, attention=attention)
                c = width
        self.out_width = c

    @abstractmethod
    def embed(self, c_noise: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """Embedding [B, E] of noise level, class and augmentation."""

    @abstractmethod
    def head(self, x: Tensor) -> Tensor:
        """Last activation [B, out_width, H, W] → output [B, D, H, W]."""

    def encode(
        self,
        x: Float[Tensor, "B C H W"],
        c_noise: Float[Tensor, "B"],
        class_labels: Float[Tensor, "B K"] | None = None,
        augment_labels: Float[Tensor, "B A"] | None = None,
    ) -> Encoded:
        """The encoder alone; `skips[-1]` [B, feature_channels, h, w] is the bottleneck."""
        emb = self.embed(c_noise, class_labels, augment_labels)
        skips, reduced_input = [], x
        for level, res in enumerate(self.resolutions):
            x = self.enc[_name(res, "down")](x, emb) if level else self.enc[_name(res, "conv")](x)
            if level and self.pyramid:
                x = reduced_input = (x + self.enc[_name(res, "aux_residual")](reduced_input)) * 0.5**0.5
            skips.append(x)
            for i in range(self.num_blocks):
                x = self.enc[_name(res, f"block{i}")](x, emb)
                skips.append(x)
        return Encoded(skips, emb)

    def decode(self, encoded: Encoded) -> Float[Tensor, "B D H W"]:
        """The decoder on what `encode` left."""
        skips, emb = list(encoded.skips), encoded.emb
        x, deepest = skips[-1], self.resolutions[-1]
        for res in reversed(self.resolutions):
            if res == deepest:
                x = self.dec[_name(res, "in1")](self.dec[_name(res, "in0")](x, emb), emb)
            else:
                x = self.dec[_name(res, "up")](x, emb)
            for i in range(self.num_blocks + 1):
                x = self.dec[_name(res, f"block{i}")](torch.cat([x, skips.pop()], dim=1), emb)
        return self.head(x)

    def forward(self, x, c_noise, class_labels=None, augment_labels=None) -> Float[Tensor, "B D H W"]:
        """Encoder and decoder; arguments as `encode`."""
        return self.decode(self.encode(x, c_noise, class_labels, augment_labels))


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
        self.map_label = _initialised(Linear(label_dim, noise), SONG) if label_dim else None
        self.map_augment = _initialised(Linear(augment_dim, noise, bias=False), SONG) if augment_dim else None
        self.map_layer0 = _initialised(Linear(noise, emb), SONG)
        self.map_layer1 = _initialised(Linear(emb, emb), SONG)
        self.dec[_name(img_resolution, "aux_norm")] = GroupNorm(self.out_width, SONG.eps)
        self.dec[_name(img_resolution, "aux_conv")] = Conv2d(self.out_width, out_channels, 3)
        SONG.init_last(self.dec[_name(img_resolution, "aux_conv")])

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
        return self.dec[_name(res, "aux_conv")](F.silu(self.dec[_name(res, "aux_norm")](x)))


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
        self.map_layer0 = _initialised(Linear(model_channels, emb), ADM)
        self.map_layer1 = _initialised(Linear(emb, emb), ADM)
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


def _name(resolution: int, part: str) -> str:
    return f"{resolution}x{resolution}_{part}"


def _initialised(layer: nn.Module, style: BlockStyle) -> nn.Module:
    style.init(layer)
    return layer
