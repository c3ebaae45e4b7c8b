"""A small classifier of 8x8 digits: digits are compared in its features, as photographs in Inception's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core.files import atomically

CLASSES = 10
FEATURES = 64


class DigitClassifier(nn.Module):
    """Three convolutions and a linear layer; 57,000 parameters. Images [n, 1, 8, 8] in [-1, 1]."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, FEATURES, 3, padding=1, bias=False), nn.BatchNorm2d(FEATURES), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(FEATURES, CLASSES)

    def features(self, images: Float[Tensor, "n 1 8 8"]) -> Float[Tensor, "n 64"]:
        """What the linear layer sees: the last activations, averaged over the image."""
        return self.body(images).mean((2, 3))

    def forward(self, images: Float[Tensor, "n 1 8 8"]) -> Float[Tensor, "n 10"]:
        """Logits."""
        return self.head(self.features(images))


@dataclass(frozen=True)
class ClassifierConfig:
    """Training of the classifier: AdamW with a one-cycle learning rate."""

    steps: int = 500
    batch: int = 128
    lr: float = 5e-3
    weight_decay: float = 0.02
    held_out: float = 0.2
    seed: int = 0


def augment(images: Float[Tensor, "n 1 h w"], generator: torch.Generator) -> Float[Tensor, "n 1 h w"]:
    """Small turns (±10°), scales (±10 %) and shifts (±half a pixel); outside the frame is background (−1)."""
    angle, scale, dx, dy = 2 * torch.rand(4, len(images), generator=generator) - 1
    angle, scale = 0.175 * angle, 1 + 0.1 * scale
    shift = 1.0 / images.shape[-1]
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack([torch.stack([cos, -sin, shift * dx], 1), torch.stack([sin, cos, shift * dy], 1)], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1


def split(count: int, held_out: float, seed: int) -> tuple[Int[Tensor, "train"], Int[Tensor, "test"]]:
    """Indices of the training and the held-out images."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    kept = count - round(held_out * count)
    return order[:kept], order[kept:]


def train_classifier(
    images: Float[Tensor, "n 1 8 8"],
    labels: Int[Tensor, "n"],
    config: ClassifierConfig,
    on_step: Callable[[int, float], None] | None = None,
) -> tuple[DigitClassifier, float]:
    """A classifier trained on all but the held-out share, and its accuracy there; `on_step(step, loss)` reports."""
    train, test = split(len(images), config.held_out, config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = DigitClassifier()
    optimiser = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=config.steps)
    for step in range(config.steps):
        index = train[torch.randint(len(train), (config.batch,), generator=generator)]
        logits = model(augment(images[index], generator))
        loss = F.cross_entropy(logits, labels[index], label_smoothing=0.05)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if on_step is not None:
            on_step(step, loss.item())
    model.eval()
    return model, accuracy(model, images[test], labels[test])


@torch.no_grad()
def accuracy(model: DigitClassifier, images: Float[Tensor, "n 1 8 8"], labels: Int[Tensor, "n"]) -> float:
    """Share of right answers."""
    return float((model(images).argmax(1) == labels).float().mean())


def save_classifier(model: DigitClassifier, path: Path, facts: dict[str, float | int]) -> None:
    """Half-precision safetensors in one rename; `facts` (accuracy, seed, …) go into its metadata."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    metadata = {"format": "pt", "digit_classifier": json.dumps(facts)}
    atomically(path, lambda partial: save_file(state, partial, metadata))


def load_classifier(path: str | Path) -> DigitClassifier:
    """The stored classifier, frozen, on the CPU.

    Raises FileNotFoundError or ValueError naming the file when it is missing or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"digit classifier {path} not found; make it: python scripts/train_digit_classifier.py")
    model = DigitClassifier()
    try:
        with safe_open(path, framework="pt") as file:
            if "digit_classifier" not in (file.metadata() or {}):
                raise ValueError("its metadata has no digit_classifier")
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except (SafetensorError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"digit classifier {path} is truncated or something else: {reason}") from error
    return model.eval().requires_grad_(False)
