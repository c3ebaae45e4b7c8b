"""The U-Net that DDPM++, NCSN++ and ADM share: an encoder that halves the resolution level by level, and its mirror.

The two halves can be run apart, so that the encoder alone serves a discriminator. Modules carry the names of the
published EDM weights, e.g. enc.32x32_block0, dec.8x8_in1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .block import BlockStyle, UNetBlock
from .layers import Conv2d, ResampledConv2d


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
                self.enc[name(res, "conv")] = initialised(Conv2d(c, first, 3), style)
                c = first
            else:
                self.enc[name(res, "down")] = block(c, c, resample="down")
            if level and pyramid:
                layer = ResampledConv2d(c_input, c, 3, taps, up=False, conv_first=True)
                self.enc[name(res, "aux_residual")] = initialised(layer, style)
                c_input = c
            skips.append(c)
            for i in range(num_blocks):
                self.enc[name(res, f"block{i}")] = block(c, width, attention=res in attn_resolutions)
                c = width
                skips.append(c)

        for level, (res, width) in reversed(list(enumerate(zip(self.resolutions, widths)))):
            if level == depth - 1:
                self.dec[name(res, "in0")] = block(c, c, attention=True)
                self.dec[name(res, "in1")] = block(c, c)
            else:
                self.dec[name(res, "up")] = block(c, c, resample="up")
            for i in range(num_blocks + 1):
                attention = res in attn_resolutions and (attend_all or i == num_blocks)
                self.dec[name(res, f"block{i}")] = block(c + skips.pop(), width, attention=attention)
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
            x = self.enc[name(res, "down")](x, emb) if level else self.enc[name(res, "conv")](x)
            if level and self.pyramid:
                x = reduced_input = (x + self.enc[name(res, "aux_residual")](reduced_input)) * 0.5**0.5
            skips.append(x)
            for i in range(self.num_blocks):
                x = self.enc[name(res, f"block{i}")](x, emb)
                skips.append(x)
        return Encoded(skips, emb)

    def decode(self, encoded: Encoded) -> Float[Tensor, "B D H W"]:
        """The decoder on what `encode` left."""
        skips, emb = list(encoded.skips), encoded.emb
        x, deepest = skips[-1], self.resolutions[-1]
        for res in reversed(self.resolutions):
            if res == deepest:
                x = self.dec[name(res, "in1")](self.dec[name(res, "in0")](x, emb), emb)
            else:
                x = self.dec[name(res, "up")](x, emb)
            for i in range(self.num_blocks + 1):
                x = self.dec[name(res, f"block{i}")](torch.cat([x, skips.pop()], dim=1), emb)
        return self.head(x)

    def forward(self, x, c_noise, class_labels=None, augment_labels=None) -> Float[Tensor, "B D H W"]:
        """Encoder and decoder; arguments as `encode`."""
        return self.decode(self.encode(x, c_noise, class_labels, augment_labels))


def name(resolution: int, part: str) -> str:
    """Published name of a module."""
    return f"{resolution}x{resolution}_{part}"


def initialised(layer: nn.Module, style: BlockStyle) -> nn.Module:
    """The layer, drawn as `style` draws its layers."""
    style.init(layer)
    return layer
