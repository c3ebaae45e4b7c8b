"""tiny-cuda-nn's torch interface: encodings and networks from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from backends.encodings import ENCODINGS, Encoding
from backends.networks import Network

__all__ = ["ENCODINGS", "Encoding", "Network", "NetworkWithInputEncoding", "free_temporary_memory"]


class NetworkWithInputEncoding(nn.Module):
    """``network(encoding(x))``, with ``n_input_dims`` and ``n_output_dims``; ``seed`` as in :func:`Encoding`."""

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        encoding_config: Mapping[str, Any],
        network_config: Mapping[str, Any],
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims, self.n_output_dims = n_input_dims, n_output_dims
        self.encoding = Encoding(n_input_dims, encoding_config, seed=seed)
        self.network = Network(self.encoding.n_output_dims, n_output_dims, network_config)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.encoding(x))


def free_temporary_memory() -> None:
    """Nothing to free: torch looks after its memory."""
