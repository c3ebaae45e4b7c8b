"""The discriminator's head on the bottleneck features of the fake score."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class DiscriminatorHead(nn.Module):
    """Logit log q_t/p_t from encoder features: one hidden layer per location, then the mean over locations.

    Noise level and class are in the features already. The last layer starts at zero: r ≡ 1, no adversarial gradient.

    Args:
        channels: of the features.
        width: of the hidden layer; None: `channels`.
    """

    def __init__(self, channels: int, width: int | None = None):
        super().__init__()
        width = width or channels
        self.norm = nn.GroupNorm(1, channels)
        self.hidden = nn.Conv2d(channels, width, 1)
        self.logit = nn.Conv2d(width, 1, 1)
        nn.init.zeros_(self.logit.weight)
        nn.init.zeros_(self.logit.bias)

    def forward(self, features: Float[Tensor, "B F h w"]) -> Float[Tensor, "B"]:
        x = nn.functional.silu(self.norm(features))
        return self.logit(nn.functional.silu(self.hidden(x))).float().mean((1, 2, 3))
