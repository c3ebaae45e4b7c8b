"""R independent small networks run as one: every weight has a leading replica axis, every product is batched."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


class StackedMLP(nn.Module):
    """R multilayer perceptrons, [R, B, inputs] → [R, B, outputs], SiLU, last layer starting at `last_gain`."""

    def __init__(self, replicas: int, inputs: int, width: int, outputs: int, hidden: int = 2, last_gain: float = 0.0):
        super().__init__()
        sizes = [inputs, *[width] * hidden, outputs]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            # One draw for all replicas: methods are compared from the same start.
            weight = torch.randn(1, fan_in, fan_out) * math.sqrt(2 / fan_in)
            self.weights.append(nn.Parameter(weight.repeat(replicas, 1, 1)))
            self.biases.append(nn.Parameter(torch.zeros(replicas, 1, fan_out)))
        with torch.no_grad():
            self.weights[-1].mul_(last_gain)

    def forward(self, x: Tensor) -> Tensor:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
            x = nn.functional.silu(torch.baddbmm(bias, x, weight))
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])


class Generator(nn.Module):
    """g(z) = z + MLP(z, sin and cos of z), z ~ N(0, I): starts as a unit Gaussian, the spread of the data.

    Without the waves the network is too smooth to cut a Gaussian into 25 separate modes within a few thousand steps.
    """

    def __init__(self, replicas: int, width: int):
        super().__init__()
        self.register_buffer("waves", torch.tensor([1.5, 3.0, 6.0]), persistent=False)
        self.body = StackedMLP(replicas, 2 + 4 * len(self.waves), width, 2)

    def forward(self, z: Tensor) -> Tensor:
        phase = (z[..., None] * self.waves).flatten(-2)
        return z + self.body(torch.cat([z, phase.sin(), phase.cos()], -1))


def noise_features(log_snr: Tensor) -> Tensor:
    """[R, B] → [R, B, 5]: λ/8 and two octaves of sine and cosine."""
    phase = log_snr[..., None] * torch.tensor([0.25, 0.5])
    return torch.cat([log_snr[..., None] / 8, phase.sin(), phase.cos()], -1)


class Critic(nn.Module):
    """Fake score and discriminator on (x_t, λ).

    Denoiser: x̂0 = c_skip x_t + c_out F with the preconditioning of unit-variance data. Discriminator: logit = log r.
    """

    def __init__(self, replicas: int, width: int):
        super().__init__()
        self.denoiser = StackedMLP(replicas, 7, width, 2)
        self.discriminator = StackedMLP(replicas, 7, width, 1)

    @staticmethod
    def _inputs(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        scale = (alpha**2 + sigma**2).rsqrt()[..., None]
        # Coordinates are stretched so that the modes' width is visible to the first layer.
        return torch.cat([2 * x_t * scale, noise_features(2 * torch.log(alpha / sigma))], -1)

    def denoise(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x̂0 [R, B, 2]; x_t [R, B, 2], alpha and sigma [R, B]."""
        total = alpha**2 + sigma**2
        output = self.denoiser(self._inputs(x_t, alpha, sigma))
        return (alpha / total)[..., None] * x_t + (sigma * total.rsqrt())[..., None] * output

    def logit(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log r [R, B]."""
        return self.discriminator(self._inputs(x_t, alpha, sigma)).squeeze(-1)
