"""Small networks by tiny-cuda-nn's configuration: :func:`Network` is the twin of ``tinycudann.Network``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

# tiny-cuda-nn's names
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "None": nn.Identity,
    "ReLU": nn.ReLU,
    "LeakyReLU": nn.LeakyReLU,
    "Softplus": nn.Softplus,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "SiLU": nn.SiLU,
}


def activation(name: str) -> nn.Module:
    """Activation module by its name in any case."""
    choices = {key.lower(): build for key, build in ACTIVATIONS.items()}
    if name.lower() not in choices:
        raise ValueError(f"activation={name}; choices: {', '.join(ACTIVATIONS)}")
    return choices[name.lower()]()


class MLP(nn.Module):
    """``n_hidden_layers`` of ``n_neurons`` each, without biases; keys ``layers.0.weight``, ``layers.2.weight``…

    ``n_hidden_layers: 0`` is one linear map. The output activation is applied by the caller.
    """

    def __init__(self, n_input_dims: int, n_output_dims: int, network_config: Mapping[str, Any]):
        super().__init__()
        self.n_input_dims, self.n_output_dims = n_input_dims, n_output_dims
        hidden = [network_config.get("n_neurons", 64)] * network_config.get("n_hidden_layers", 1)
        widths = [n_input_dims, *hidden, n_output_dims]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths[:-1]):
            layers += [nn.Linear(n_in, n_out, bias=False), activation(network_config.get("activation", "ReLU"))]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1], bias=False))

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n e"]:
        return self.layers(x)


def Network(
    n_input_dims: int, n_output_dims: int, network_config: Mapping[str, Any], seed: int | None = None
) -> nn.Module:
    """MLP for ``otype`` FullyFusedMLP or CutlassMLP (here the same), with tiny-cuda-nn's ``output_activation``."""
    otype = network_config.get("otype", "FullyFusedMLP")
    if otype not in ("FullyFusedMLP", "CutlassMLP"):
        raise ValueError(f"network otype={otype}; choices: FullyFusedMLP, CutlassMLP")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        mlp = MLP(n_input_dims, n_output_dims, network_config)
    output = activation(network_config.get("output_activation", "None"))
    return nn.Sequential(mlp, output)
