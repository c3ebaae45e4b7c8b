"""Values that the reference computed (``tests/data/upstream_contract.json``), for the tests that replay them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

CONTRACT = json.loads((Path(__file__).parents[1] / "data" / "upstream_contract.json").read_text())


def numbers(value) -> torch.Tensor:
    """Nested lists of the contract as a float32 tensor; infinities and nan are strings there."""

    def convert(item):
        return [convert(i) for i in item] if isinstance(item, list) else float(item)

    return torch.tensor(convert(value))


def close(actual: torch.Tensor, expected, atol: float = 1e-5, rtol: float = 1e-5) -> None:
    """Assert agreement with values of the contract, which are rounded to 7 digits of a float32 computation."""
    expected = expected if isinstance(expected, torch.Tensor) else numbers(expected)
    torch.testing.assert_close(actual.detach().float().cpu(), expected, atol=atol, rtol=rtol, equal_nan=True)
