"""Every number of the teachers' making: presets ``cpu`` and ``cpu128`` (two cores), ``gpu`` and ``tiny`` (tests)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class DataConfig:
    """Renders on disk. Images of one ``group`` show one object under the four view words, one after the other."""

    train_images: int = 72_000
    judge_images: int = 32_000
    held_out_images: int = 4_000
    size: int = 64
    group: int = 4
    shard: int = 2_000
    seed: int = 1_000
    style: str = "light"


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a trapezoid learning rate: linear warm-up, constant, linear decay over the last ``decay`` share."""

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    decay: float = 0.35
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    grad_clip: float = 1.0
    ema: float = 0.999


@dataclass(frozen=True)
class VaeConfig:
    """AutoencoderKL with one halving per entry of ``channels`` after the first. Loss weights: :func:`.vae.vae_loss`.

    ``images``: trained on the first so many renders. The first ``crop_share`` of the steps see squares of ``crop``
    pixels. ``copies``: how often each cut-out render is encoded, each time on another background.
    """

    channels: tuple[int, ...] = (24, 48, 96)
    latent_channels: int = 4
    images: int | None = None
    crop: int = 64
    crop_share: float = 0.0
    copies: int = 1
    layers: int = 1
    norm_groups: int = 8
    foreground: float = 5.0
    chroma: float = 1.0
    edges: float = 0.5
    kl: float = 1e-5
    latent_noise: float = 0.1
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(steps=7_000, batch=8, lr=1e-3))


@dataclass(frozen=True)
class UnetConfig:
    """Stable-Diffusion U-Net with its text encoder.

    The pooled text also enters beside the time embedding (``addition_embed_type="text"``, a stock diffusers option
    that asks nothing of the pipeline): class, colour, pattern and above all the *view word* then modulate every
    residual block. Cross-attention alone left the view words at 48 % (chance 25 %).
    """

    channels: tuple[int, ...] = (96, 160, 224)
    layers: int = 1
    heads: int = 4
    norm_groups: int = 16
    text_width: int = 128
    text_layers: int = 3
    text_heads: int = 4
    context: int = 32
    caption_dropout: float = 0.1
    noise_word: float = 0.05
    camera_words: float = 0.0  # share of captions that also tell azimuth and elevation
    paired: float = 0.5
    overhead: float = 2.5  # how many times as often independent items are overhead views ...
    hard: float = 1.5  # ... and how many times as often any item shows one of these, which lag behind the others
    hard_classes: tuple[str, ...] = ("television", "cat", "sleeping cat", "car", "rocket", "snowman", "house", "bunny")
    min_snr: float = 5.0
    high_noise: float = 0.85
    layout_cap: float = 12.0
    layout_from: int = 480
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(steps=12_000, batch=32, lr=8e-4, warmup=200))
    text_optim: OptimConfig = field(default_factory=lambda: OptimConfig(steps=500, batch=96, lr=1e-3, ema=0.98))


@dataclass(frozen=True)
class MultiViewConfig:
    """The multi-view teacher: trained on from the single-view U-Net of the same run.

    groups: objects rendered from ``views`` sides each; 0: this preset makes no such teacher. copies: how often each
    render is encoded, on another background every time. single_share: of the steps, how many see single views, of
    either set; those of one object then share noise and noise level, so that only the camera tells them apart. unsaid:
    of the objects, how many have no words for the view in their captions. With the words always there the network went
    by them alone: it drew the same from 0 and from 30 degrees. camera: what the network is told of its cameras, a row
    of the extension's `multi_view.CAMERAS`.
    """

    groups: int = 0
    views: int = 4
    copies: int = 2
    single_share: float = 0.4
    unsaid: float = 0.6
    camera: str = "c2w_zoom"
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(steps=15_000, batch=16, lr=4e-4))

    def spoken(self, words: UnetConfig) -> UnetConfig:
        """How captions are disturbed one by one: whole groups are dropped elsewhere."""
        return replace(words, caption_dropout=0.0)


@dataclass(frozen=True)
class ClipConfig:
    """A small open-clip model: modified ResNet and a word-level text transformer, ``embed_dim`` shared.

    ``size``: side of the pictures it looks at (0: the renders' own).
    """

    size: int = 0
    embed_dim: int = 128
    vision_width: int = 16
    vision_layers: tuple[int, ...] = (1, 1, 1, 1)
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    context: int = 32
    drop_fact: float = 0.5
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(steps=6_000, batch=96, lr=1e-3, ema=0.995))


@dataclass(frozen=True)
class JudgeConfig:
    """A convolutional classifier of class, colour, pattern and view; it sees ground-truth renders only.

    ``size``: side of the pictures it looks at, larger ones are shrunk first (0: the renders' own). ``azimuth``: it also
    names the camera's azimuth to 15 degrees. ``renders``: the set it learns from, the first ``images`` of it.
    """

    size: int = 0
    azimuth: bool = False
    renders: str = "judge"
    images: int | None = None
    channels: tuple[int, ...] = (24, 48, 96, 160)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(steps=6_000, batch=64, lr=2e-3, ema=0.995))


@dataclass(frozen=True)
class ReportConfig:
    """What the report draws: every class x colour x four views, patterns in turn, ``per_view`` times.

    ``camera_words``: also every class with views from twelve azimuths told in words.
    """

    guidance: float = 6.0
    sampling_steps: int = 20
    per_view: int = 1
    batch: int = 32
    bf16: bool = False
    camera_words: bool = False


@dataclass(frozen=True)
class Preset:
    """All phases. ``bf16`` runs forward passes in bfloat16 autocast; checkpoints every ``save_minutes``.

    ``start_from``: name of a shipped teacher (a folder of load/teachers; its judge bears the same name) whose weights
    are copied where they fit, see :mod:`.warm_start`; empty: everything starts fresh.
    """

    data: DataConfig = field(default_factory=DataConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    unet: UnetConfig = field(default_factory=UnetConfig)
    multi_view: MultiViewConfig = field(default_factory=MultiViewConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    start_from: str = ""
    bf16: bool = True
    save_minutes: float = 4.0


_GPU = Preset(
    data=DataConfig(train_images=120_000, judge_images=40_000),
    vae=VaeConfig(optim=OptimConfig(steps=6_000, batch=128, lr=1.5e-3)),
    unet=UnetConfig(optim=OptimConfig(steps=10_000, batch=256, lr=1e-3, warmup=500, ema=0.9995)),
    clip=ClipConfig(optim=OptimConfig(steps=5_000, batch=512, lr=1e-3, ema=0.995)),
    judge=JudgeConfig(optim=OptimConfig(steps=4_000, batch=256, lr=2e-3, ema=0.995)),
    report=ReportConfig(batch=256, per_view=2),
)

_CPU128 = Preset(
    data=DataConfig(
        train_images=36_000, judge_images=0, held_out_images=2_000, size=128, style="cutout", seed=128_000
    ),
    vae=VaeConfig(
        channels=(16, 24, 48, 96), latent_channels=8, images=20_000, crop=64, crop_share=0.92, copies=1,
        optim=OptimConfig(steps=5_000, batch=8, lr=1e-3),
    ),
    unet=UnetConfig(
        camera_words=0.6, hard=1.0, overhead=1.8, layout_from=0,
        optim=OptimConfig(steps=3_700, batch=16, lr=6e-4, warmup=200),
        text_optim=OptimConfig(steps=700, batch=96, lr=5e-4, ema=0.98),
    ),
    multi_view=MultiViewConfig(groups=4_000),
    judge=JudgeConfig(
        size=64, azimuth=True, renders="train", images=16_000,
        optim=OptimConfig(steps=800, batch=64, lr=1e-3, warmup=50, ema=0.99),
    ),
    report=ReportConfig(camera_words=True),
    clip=ClipConfig(size=64, optim=OptimConfig(steps=4_000, batch=96, lr=1e-3, ema=0.995)),
    start_from="shapes",
)

_TINY = Preset(
    data=DataConfig(train_images=64, judge_images=64, held_out_images=32, size=32, shard=32),
    vae=VaeConfig(channels=(8, 8, 16), norm_groups=4, optim=OptimConfig(steps=4, batch=8, lr=1e-3, warmup=1)),
    unet=UnetConfig(
        channels=(16, 16), heads=2, norm_groups=4, text_width=16, text_layers=1, text_heads=2, context=32,
        hard_classes=(),
        optim=OptimConfig(steps=4, batch=8, lr=1e-3, warmup=1),
        text_optim=OptimConfig(steps=4, batch=8, lr=1e-3, warmup=1),
    ),
    multi_view=MultiViewConfig(
        groups=16, views=2, copies=1, optim=OptimConfig(steps=4, batch=8, lr=1e-3, warmup=1)
    ),
    clip=ClipConfig(
        embed_dim=16, vision_width=8, text_width=16, text_layers=1, text_heads=2,
        optim=OptimConfig(steps=4, batch=8, lr=1e-3, warmup=1),
    ),
    judge=JudgeConfig(channels=(8, 8, 8, 16), optim=OptimConfig(steps=4, batch=8, lr=1e-3, warmup=1)),
    report=ReportConfig(sampling_steps=2, batch=16),
    bf16=False,
    save_minutes=60.0,
)  # fmt: skip

PRESETS: dict[str, Preset] = {"cpu": Preset(), "cpu128": _CPU128, "gpu": _GPU, "tiny": _TINY}
