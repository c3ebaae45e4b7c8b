"""The discriminator: a small head on U-Net features, whose logit is log r = log q_t / p_t (Theorem A.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.errors import choose
from ..core.ranges import choice, several, text, whole


@dataclass
class DiscriminatorConfig:
    """The head whose logit is log r, and how it learns.

    backbone: whose U-Net encoder it reads: fake (shares the pass that gives the score) | teacher (frozen, steadier).
    features: encoder blocks, of down.0 … down.N, mid.
    width: channels inside the head.
    warmup_steps: steps during which r ≡ 1 and the adversarial term is off, while the head already learns.
    warmup_ramp: steps over which log r then grows to its full size.
    calibrate_every: steps between measurements of the critic's calibration slope (`critic_slope` in the log), where a
        ratio is read; 0 never.
    train_backbone: let the discriminator's loss train the fake score's encoder too (SiDA); fake backbone only.
    """

    backbone: str = "fake"
    features: list[str] = field(default_factory=lambda: ["mid"])
    width: int = 64
    warmup_steps: int = 0
    warmup_ramp: int = 0
    calibrate_every: int = 100
    train_backbone: bool = False


# Values of a DiscriminatorConfig, see core/ranges.py.
RANGES = {
    "backbone": choice("fake", "teacher"),
    "features": several(text()),
    "width": whole(least=1, most=1 << 14),
    "warmup_steps": whole(least=0),
    "warmup_ramp": whole(least=0),
    "calibrate_every": whole(least=0),
}


class DiscriminatorHead(nn.Module):
    """One small convolutional branch per feature map; the logits of the branches add up.

    The features already know the noise level and the condition, so the head needs neither. The last layer starts at
    zero: log r = 0, r = 1 until something has been learned.

    Args:
        channels: feature name -> channels, e.g. {"mid": 1280}.
        width: channels inside a branch; None: as many as its feature has.
        branch: row of `BRANCHES`.
    """

    def __init__(self, channels: dict[str, int], width: int | None = 64, branch: str = "spatial") -> None:
        super().__init__()
        build = choose("discriminator.branch", branch, BRANCHES)
        self.branches = nn.ModuleDict({_key(name): build(c, width or c) for name, c in channels.items()})

    def forward(self, features: dict[str, Float[Tensor, "B C h w"]]) -> Float[Tensor, "B"]:
        """Logit of "this noisy sample comes from the teacher", unclamped."""
        logits = [self.branches[_key(name)](feature.float()) for name, feature in features.items()]
        return torch.stack(logits).sum(0).squeeze(-1)


def _key(name: str) -> str:
    return name.replace(".", "_")  # names of submodules hold no dots


class ChannelNorm(nn.LayerNorm):
    """Normalise each pixel over its channels.

    Norms that reach over the picture (group or instance norm) followed by mean pooling would erase the very
    statistic that tells real from fake: the mean of a feature over the picture.
    """

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _zero(layer: nn.Module) -> nn.Module:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _spatial(channels: int, width: int) -> nn.Sequential:
    """Looks at 3×3 neighbourhoods before it pools; for latents."""
    return nn.Sequential(
        ChannelNorm(channels),
        nn.Conv2d(channels, width, 1),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        _zero(nn.Linear(width, 1)),
    )


def _pointwise(channels: int, width: int) -> nn.Sequential:
    """One hidden layer per location, then the mean of the logits; for the deep bottleneck of an EDM network."""
    return nn.Sequential(
        nn.GroupNorm(1, channels),
        nn.SiLU(),
        nn.Conv2d(channels, width, 1),
        nn.SiLU(),
        _zero(nn.Conv2d(width, 1, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


BRANCHES: dict[str, Callable[[int, int], nn.Module]] = {"spatial": _spatial, "pointwise": _pointwise}
