"""The part of the reference's values that concerns meshes."""

import json
from pathlib import Path

import torch

CONTRACT = json.loads((Path(__file__).parents[1] / "data" / "upstream_contract.json").read_text())


def close(actual, expected, atol=1e-5, rtol=1e-5):
    """Assert agreement with values rounded to 7 digits of a float32 computation."""
    torch.testing.assert_close(actual.detach().float(), torch.tensor(expected).float(), atol=atol, rtol=rtol)
