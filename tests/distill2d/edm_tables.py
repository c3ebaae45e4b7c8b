"""Tensors of the published EDM networks, written down layer by layer from the architectures' definition.

Nothing here looks at the modules: widths and channels are spelled out, so that a wrong rule cannot agree with itself.
"""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]


def _layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": shape, **({f"{name}.bias": (shape[0],)} if bias else {})}


def _norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _box(name: str) -> Shapes:
    return {f"{name}.resample_filter": (1, 1, 2, 2)}


def _attention(name: str, c: int) -> Shapes:
    return {**_norm(f"{name}.norm2", c), **_layer(f"{name}.qkv", 3 * c, c, 1, 1), **_layer(f"{name}.proj", c, c, 1, 1)}


def _block(name: str, c: int, d: int, affine: tuple[int, int]) -> Shapes:
    return {
        **_norm(f"{name}.norm0", c),
        **_layer(f"{name}.conv0", d, c, 3, 3),
        **_layer(f"{name}.affine", *affine),
        **_norm(f"{name}.norm1", d),
        **_layer(f"{name}.conv1", d, d, 3, 3),
    }


def cifar10(classes: int) -> Shapes:
    """DDPM++ at 32×32: every level 256 wide, embedding 512, attention at 16×16."""

    def block(name: str, c: int, d: int = 256, *, attention: bool = False, resampled: bool = False) -> Shapes:
        shapes = _block(f"model.{name}", c, d, (d, 512))
        if c != d or resampled:
            shapes |= _layer(f"model.{name}.skip", d, c, 1, 1)
        if resampled:
            shapes |= {**_box(f"model.{name}.conv0"), **_box(f"model.{name}.skip")}
        return shapes | (_attention(f"model.{name}", d) if attention else {})

    shapes = {
        "model.map_augment.weight": (128, 9),
        **_layer("model.map_layer0", 512, 128),
        **_layer("model.map_layer1", 512, 512),
        **(_layer("model.map_label", 128, classes) if classes else {}),
        **_layer("model.enc.32x32_conv", 128, 3, 3, 3),
        **block("enc.32x32_block0", 128),
        **block("enc.16x16_down", 256, resampled=True),
        **block("enc.8x8_down", 256, resampled=True),
        **block("dec.8x8_in0", 256, attention=True),
        **block("dec.8x8_in1", 256),
        **block("dec.16x16_up", 256, resampled=True),
        **block("dec.32x32_up", 256, resampled=True),
        **block("dec.16x16_block4", 512, attention=True),
        **block("dec.32x32_block4", 256 + 128),
        **_norm("model.dec.32x32_aux_norm", 256),
        **_layer("model.dec.32x32_aux_conv", 3, 256, 3, 3),
    }
    for i in range(4):
        shapes |= block(f"enc.16x16_block{i}", 256, attention=True)
        shapes |= block(f"enc.8x8_block{i}", 256)
        shapes |= block(f"dec.16x16_block{i}", 512)
        shapes |= block(f"dec.32x32_block{i}", 512)
    for i in range(1, 4):
        shapes |= block(f"enc.32x32_block{i}", 256)
    for i in range(5):
        shapes |= block(f"dec.8x8_block{i}", 512)
    return shapes


# ADM at 64×64: name, channels in, channels out, attention, resampled.
_ADM_BLOCKS = [
    ("enc.64x64_block0", 192, 192, False, False),
    ("enc.64x64_block1", 192, 192, False, False),
    ("enc.64x64_block2", 192, 192, False, False),
    ("enc.32x32_down", 192, 192, False, True),
    ("enc.32x32_block0", 192, 384, True, False),
    ("enc.32x32_block1", 384, 384, True, False),
    ("enc.32x32_block2", 384, 384, True, False),
    ("enc.16x16_down", 384, 384, False, True),
    ("enc.16x16_block0", 384, 576, True, False),
    ("enc.16x16_block1", 576, 576, True, False),
    ("enc.16x16_block2", 576, 576, True, False),
    ("enc.8x8_down", 576, 576, False, True),
    ("enc.8x8_block0", 576, 768, True, False),
    ("enc.8x8_block1", 768, 768, True, False),
    ("enc.8x8_block2", 768, 768, True, False),
    ("dec.8x8_in0", 768, 768, True, False),
    ("dec.8x8_in1", 768, 768, False, False),
    ("dec.8x8_block0", 768 + 768, 768, True, False),
    ("dec.8x8_block1", 768 + 768, 768, True, False),
    ("dec.8x8_block2", 768 + 768, 768, True, False),
    ("dec.8x8_block3", 768 + 576, 768, True, False),
    ("dec.16x16_up", 768, 768, False, True),
    ("dec.16x16_block0", 768 + 576, 576, True, False),
    ("dec.16x16_block1", 576 + 576, 576, True, False),
    ("dec.16x16_block2", 576 + 576, 576, True, False),
    ("dec.16x16_block3", 576 + 384, 576, True, False),
    ("dec.32x32_up", 576, 576, False, True),
    ("dec.32x32_block0", 576 + 384, 384, True, False),
    ("dec.32x32_block1", 384 + 384, 384, True, False),
    ("dec.32x32_block2", 384 + 384, 384, True, False),
    ("dec.32x32_block3", 384 + 192, 384, True, False),
    ("dec.64x64_up", 384, 384, False, True),
    ("dec.64x64_block0", 384 + 192, 192, False, False),
    ("dec.64x64_block1", 192 + 192, 192, False, False),
    ("dec.64x64_block2", 192 + 192, 192, False, False),
    ("dec.64x64_block3", 192 + 192, 192, False, False),
]


def imagenet64() -> Shapes:
    """ADM at 64×64 with 1,000 classes: embedding 768, scale and shift from it in every block."""
    shapes = {
        **_layer("model.map_layer0", 768, 192),
        **_layer("model.map_layer1", 768, 768),
        **_layer("model.map_label", 768, 1000, bias=False),
        **_layer("model.enc.64x64_conv", 192, 3, 3, 3),
        **_norm("model.out_norm", 192),
        **_layer("model.out_conv", 3, 192, 3, 3),
    }
    for name, c, d, attention, resampled in _ADM_BLOCKS:
        shapes |= _block(f"model.{name}", c, d, (2 * d, 768))
        if c != d:
            shapes |= _layer(f"model.{name}.skip", d, c, 1, 1)
        if resampled:  # the shortcut keeps its channels: only a filter
            shapes |= {**_box(f"model.{name}.conv0"), **_box(f"model.{name}.skip")}
        if attention:
            shapes |= _attention(f"model.{name}", d)
    return shapes
