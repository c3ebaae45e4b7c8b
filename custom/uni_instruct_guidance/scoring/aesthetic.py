"""LAION's aesthetic predictor: a small network on the CLIP embedding of a picture, about 1..10, higher is better.

Facts of the published weights: github.com/christophschuhmann/improved-aesthetic-predictor. The predictor belongs to the
image tower of OpenAI's ViT-L/14; embeddings of other models mean nothing to it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from .clip import BATCH, READ_ERRORS, ClipScorer

WIDTHS = (768, 1024, 128, 64, 16, 1)
MADE_FOR = "ViT-L-14/openai"
HUB = "hf-hub:"


@dataclass(frozen=True)
class Variant:
    """One published network.

    indices: of its linear layers in the file's `layers.{i}.weight` and `layers.{i}.bias`; between them stand dropout
    (inactive here) and the activations, by which the files are told apart. activation: what follows each of these
    layers but the last.
    """

    name: str
    indices: tuple[int, ...]
    activation: Callable[[], nn.Module]

    def build(self) -> nn.Sequential:
        """The network without weights, [B, 768] → [B, 1]."""
        steps: list[nn.Module] = []
        for wide, narrow in pairwise(WIDTHS):
            steps += [nn.Linear(wide, narrow), self.activation()]
        return nn.Sequential(*steps[:-1])

    @property
    def keys(self) -> set[str]:
        """Names in the file."""
        return {f"layers.{index}.{part}" for index in self.indices for part in ("weight", "bias")}


# Linear MSE: five linear layers, dropout after the first three, nothing between. ReLU MSE: linear, ReLU, dropout.
VARIANTS = (
    Variant("linearMSE", (0, 2, 4, 6, 7), nn.Identity),
    Variant("reluMSE", (0, 3, 6, 9, 11), nn.ReLU),
)


def located(path: str | Path) -> Path:
    """The file itself; `hf-hub:OWNER/REPOSITORY/FILE` is fetched, or found where an earlier download lies.

    Raises:
        ValueError: not of that form, or the hub has it not or does not answer.
    """
    if not str(path).startswith(HUB):
        return Path(path)
    parts = str(path).removeprefix(HUB).split("/", 2)
    if len(parts) < 3:
        raise ValueError(f"aesthetic predictor {path}: write {HUB}OWNER/REPOSITORY/FILE")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download("/".join(parts[:2]), parts[2]))
    except (OSError, ValueError) as error:  # what the hub's client derives its errors from
        raise ValueError(
            f"aesthetic predictor {path}: cannot be fetched: {' '.join(str(error).split())[:160]}"
        ) from error


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of a .pth file read without executing anything in it.

    path: a file or `hf-hub:OWNER/REPOSITORY/FILE`.

    Raises:
        ValueError: missing, unreadable, or something other than named tensors.
    """
    path = located(path)
    if not path.is_file():
        raise ValueError(f"aesthetic predictor {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except READ_ERRORS as error:
        reason = "it holds more than tensors" if isinstance(error, pickle.UnpicklingError) else str(error)
        raise ValueError(
            f"aesthetic predictor {path}: cannot be read, truncated or no weights: {' '.join(reason.split())[:160]}"
        ) from error
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"aesthetic predictor {path}: holds no named tensors")
    return dict(weights)


def load_predictor(path: str | Path) -> tuple[Variant, nn.Sequential]:
    """Which network a file holds, told by its keys, and that network.

    Raises:
        ValueError: see `read_weights`; keys of no published network, or shapes that differ (the first is named).
    """
    weights = read_weights(path)
    variant = next((row for row in VARIANTS if row.keys == set(weights)), None)
    if variant is None:
        known = "; ".join(f"{row.name}: layers {', '.join(map(str, row.indices))}" for row in VARIANTS)
        raise ValueError(
            f"aesthetic predictor {path}: its keys ({', '.join(sorted(weights)[:4])}, …) are those of no published "
            f"network ({known})"
        )
    network = variant.build()
    linear = [step for step in network if isinstance(step, nn.Linear)]
    for index, layer in zip(variant.indices, linear):
        for part in ("weight", "bias"):
            found, target = weights[f"layers.{index}.{part}"], getattr(layer, part)
            if found.shape != target.shape:
                raise ValueError(
                    f"aesthetic predictor {path}: layers.{index}.{part} has shape {list(found.shape)}, the published "
                    f"{variant.name} network {list(target.shape)}"
                )
            target.data.copy_(found)
    return variant, network.eval().requires_grad_(False)


class AestheticScorer:
    """Aesthetic score of pictures, about 1..10.

    Args:
        weights: file of the predictor, `sac+logos+ava1-l14-linearMSE.pth` or `ava+logos-l14-reluMSE.pth`, or
            `hf-hub:OWNER/REPOSITORY/FILE`.
        clip: the model that embeds pictures; it must be OpenAI's ViT-L/14.

    Raises:
        ValueError: see `load_predictor`; or a CLIP of another width.
    """

    def __init__(self, weights: str | Path, clip: ClipScorer):
        self.variant, network = load_predictor(weights)
        if clip.width != WIDTHS[0]:
            raise ValueError(
                f"aesthetic predictor {weights}: made for embeddings of {MADE_FOR} ({WIDTHS[0]} numbers); those of "
                f"{clip.name} have {clip.width}"
            )
        self.clip = clip
        self.network = network.to(clip.device)
        self.label = f"aesthetic predictor v2 {self.variant.name} on {clip.name}"

    @property
    def remark(self) -> str | None:
        """A model of the right width that is another one: the numbers then mean nothing in particular."""
        if self.clip.name in (MADE_FOR, "ViT-L-14-quickgelu/openai"):
            return None
        return f"the predictor was made for {MADE_FOR}; whether {self.clip.name} is that model cannot be seen"

    def of_embeddings(self, embeddings: Float[Tensor, "B 768"]) -> Float[Tensor, "B"]:
        """Scores of unit embeddings, differentiable."""
        return self.network(embeddings.to(self.clip.device).float()).squeeze(-1)

    def embed_and_score(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B"]:
        """Scores of pictures in 0..1, differentiable: for rewards."""
        return self.of_embeddings(self.clip.embed(images))

    @torch.no_grad()
    def score(self, pictures: Sequence[np.ndarray]) -> Float[Tensor, "N"]:
        """Scores of 8-bit pictures."""
        embeddings = self.clip.embed_pictures(pictures)
        return torch.cat([self.of_embeddings(part) for part in embeddings.split(BATCH)]).cpu()
