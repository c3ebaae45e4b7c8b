"""An independent judge: a classifier of class, colour, pattern and view that only ever saw ground-truth renders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from uni_instruct_guidance.core.camera_words import AZIMUTHS, STEP, camera_bins

from .. import ROOT
from .data import Renders, World
from .export import save_weights
from .presets import JudgeConfig

HEADS = ("class", "color", "pattern", "view")
#: A further head that some judges have: the nearest of these azimuths in degrees.
AZIMUTH = "azimuth"


def shrink(image: Float[Tensor, "n c h w"], size: int) -> Float[Tensor, "n c s s"]:
    """Pictures at the side ``size``, smoothed first where they are larger."""
    if image.shape[-2:] == (size, size):
        return image
    return F.interpolate(image, (size, size), mode="bilinear", antialias=True, align_corners=False)


class Judge(nn.Module):
    """Residual convolutional classifier with a head per entry of ``names``: ``judge(images)`` -> logits per head.

    ``names`` maps each head to the names of its outputs and ``view_classes`` lists the classes whose views differ;
    both travel in the weights file, so that a judge answers in words without the world at hand.
    """

    def __init__(
        self, names: dict[str, tuple[str, ...]], view_classes: tuple[str, ...], channels: tuple[int, ...], size: int
    ):
        super().__init__()
        self.names, self.view_classes, self.channels, self.size = names, view_classes, channels, size
        self.stem = nn.Sequential(nn.Conv2d(3, channels[0], 3, 2, 1, bias=False), nn.BatchNorm2d(channels[0]))
        self.blocks = nn.ModuleList()
        for inner, outer in pairwise(channels):
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(inner, outer, 3, 2, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(),
                    nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer),
                )
            )  # fmt: skip
        self.shortcuts = nn.ModuleList(
            nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inner, outer, 1, bias=False))
            for inner, outer in pairwise(channels)
        )
        # mean and maximum: colour is an average, a dot or a handle is one place
        self.heads = nn.ModuleDict({name: nn.Linear(2 * channels[-1], len(values)) for name, values in names.items()})

    def logits(self, image: Float[Tensor, "n 3 h w"]) -> dict[str, Float[Tensor, "n k"]]:
        """Logits per head for images in [-1, 1] at the judge's own size."""
        x = F.relu(self.stem(image))
        for block, shortcut in zip(self.blocks, self.shortcuts):
            x = F.relu(block(x) + shortcut(x))
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.no_grad()
    def forward(self, images: UInt8[Tensor, "n h w 3"] | Float[Tensor, "n h w 3"] | np.ndarray) -> dict[str, Tensor]:
        """Logits for images [n, H, W, 3]: uint8 in 0..255 or floating point in [0, 1], any size.

        Raises ValueError for any other shape.
        """
        images = torch.as_tensor(images)
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images has the shape {tuple(images.shape)}; the judge takes [n, height, width, 3]")
        scaled = images.float() / 255.0 if images.dtype == torch.uint8 else images.float()
        scaled = scaled.to(next(self.parameters()).device).movedim(-1, 1)
        return self.logits(shrink(scaled, self.size) * 2.0 - 1.0)


def load_judge(path: str | Path) -> Judge:
    """The judge stored in ``path`` (safetensors), ready to call on the CPU.

    Raises FileNotFoundError or ValueError naming the file when it is missing or broken.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"judge weights {path} not found; make them: scripts/train_teacher.py --phases judge")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["judge"])
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"judge weights {path} are truncated or not a judge: {error}") from error
    names = {head: tuple(values) for head, values in facts["names"].items()}
    model = Judge(names, tuple(facts["view_classes"]), tuple(facts["channels"]), facts["size"])
    state.update({key: value.long() for key, value in state.items() if key.endswith("num_batches_tracked")})
    model.load_state_dict(state)
    return model.eval()


@cache
def built_in_judge() -> Judge:
    """What reads pictures of the built-in world; loaded once."""
    return load_judge(ROOT / "load" / "judge" / "shapes.safetensors")


def save_judge(model: Judge, path: Path) -> None:
    """Half-precision weights with names, sizes and view classes in the file's metadata."""
    facts = {"names": model.names, "view_classes": model.view_classes, "channels": model.channels, "size": model.size}
    save_weights(model.state_dict(), path, {"judge": json.dumps(facts)})


def build_judge(config: JudgeConfig, world: World, size: int) -> Judge:
    """An untrained judge of ``world``."""
    names = {"class": world.CLASSES, "color": world.COLORS, "pattern": world.PATTERNS, "view": world.VIEWS}
    if config.azimuth:
        names[AZIMUTH] = [f"{azimuth:03d}" for azimuth in AZIMUTHS]
    names = {head: tuple(values) for head, values in names.items()}
    return Judge(names, tuple(world.VIEW_CLASSES), config.channels, config.size or size)


def view_loss(
    logits: Float[Tensor, "n 4"], label: Tensor, distinct: Tensor, overhead: int
) -> Float[Tensor, "n"]:
    """Cross-entropy; where an object looks the same all round, the three horizontal words count as one."""
    log_p = logits.log_softmax(1)
    horizontal = torch.cat([log_p[:, :overhead], log_p[:, overhead + 1 :]], dim=1).logsumexp(1)
    merged = torch.where(label == overhead, log_p[:, overhead], horizontal)
    return -torch.where(distinct, log_p.gather(1, label[:, None])[:, 0], merged)


def augment(image: Float[Tensor, "n 3 h w"], generator: torch.Generator) -> Float[Tensor, "n 3 h w"]:
    """Small shifts and zooms, blur of half the batches and noise: decoded latents are softer than renders."""
    count = len(image)
    zoom = 1.0 + 0.15 * (2.0 * torch.rand(count, generator=generator) - 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = 0.12 * (2.0 * torch.rand(count, 2, generator=generator) - 1.0)
    grid = F.affine_grid(theta.to(image.device), list(image.shape), align_corners=False)
    image = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    draw = torch.rand(2, generator=generator)
    if draw[0] < 0.5:
        image = gaussian_blur(image, [5, 5], [0.3 + 0.9 * float(draw[1])])
    level = 0.06 * torch.rand(count, 1, 1, 1, generator=generator)
    return image + (level * torch.randn(image.shape, generator=generator)).to(image.device)


def judge_step(model: Judge, renders: Renders, config: JudgeConfig, device: torch.device):
    """The step function of the judge. Colour and pattern are asked of colour renders only (``kind`` 0)."""
    labels = {
        "class": torch.from_numpy(renders.class_id), "color": torch.from_numpy(renders.color_id),
        "pattern": torch.from_numpy(renders.pattern_id), "view": torch.from_numpy(renders.view_id),
        AZIMUTH: camera_bins(torch.from_numpy(renders.azimuth_deg), torch.from_numpy(renders.elevation_deg))[0],
    }  # fmt: skip
    coloured = torch.from_numpy(renders.kind) == 0
    views_differ = torch.tensor([name in model.view_classes for name in model.names["class"]])
    overhead = model.names["view"].index("overhead")

    def step(generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        index = torch.randint(len(renders), (config.optim.batch,), generator=generator)
        image = shrink(renders.pictures(index, generator).to(device), model.size)
        logits = model.logits(augment(image, generator))
        truth = {head: labels[head][index].to(device) for head in logits}
        plain = coloured[index].to(device).float()
        losses = {
            "class": F.cross_entropy(logits["class"], truth["class"]),
            "color": (plain * F.cross_entropy(logits["color"], truth["color"], reduction="none")).mean(),
            "pattern": (plain * F.cross_entropy(logits["pattern"], truth["pattern"], reduction="none")).mean(),
            "view": view_loss(
                logits["view"], truth["view"], views_differ.to(device)[truth["class"]], overhead
            ).mean(),
        }  # fmt: skip
        if AZIMUTH in logits:
            turned = views_differ.to(device)[truth["class"]].float()
            losses[AZIMUTH] = (turned * F.cross_entropy(logits[AZIMUTH], truth[AZIMUTH], reduction="none")).mean()
        return sum(losses.values()), {head: value.item() for head, value in losses.items()}

    return step


def _in_batches(renders: Renders, batch: int) -> Iterator[tuple[int, Float[Tensor, "n h w 3"]]]:
    """Pictures in [0, 1] as a judge takes them, and the number of the first; cut-outs lie on fixed backgrounds."""
    for start in range(0, len(renders), batch):
        index = torch.arange(start, min(start + batch, len(renders)))
        yield start, renders.pictures(index, torch.Generator().manual_seed(start)).movedim(1, -1) * 0.5 + 0.5


def azimuth_error(logits: Float[Tensor, "n 24"], azimuth_deg: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Degrees between the judge's azimuth (the most probable word) and the true or asked one, 0..180."""
    apart = logits.argmax(1) * float(STEP) - azimuth_deg
    return ((apart + 180.0) % 360.0 - 180.0).abs()


def azimuth_errors(model: Judge, renders: Renders, batch: int = 256) -> Float[np.ndarray, "n"]:
    """Degrees by which the judge is off, over colour renders of classes whose views differ."""
    truth = torch.from_numpy(renders.azimuth_deg)
    batches = _in_batches(renders, batch)
    off = [azimuth_error(model(x)[AZIMUTH].cpu(), truth[start : start + len(x)]) for start, x in batches]
    distinct = np.isin(renders.class_id, [model.names["class"].index(name) for name in model.view_classes])
    return torch.cat(off).numpy()[distinct & (renders.kind == 0)]


def accuracy(model: Judge, renders: Renders, batch: int = 256) -> dict[str, float]:
    """Share of right answers per head: colour and pattern over colour renders, view over classes whose views differ."""
    right: dict[str, list[np.ndarray]] = {head: [] for head in HEADS}
    truth = {"class": renders.class_id, "color": renders.color_id, "pattern": renders.pattern_id,
             "view": renders.view_id}  # fmt: skip
    for start, pictures in _in_batches(renders, batch):
        logits = model(pictures)
        for head in HEADS:
            right[head].append(logits[head].argmax(1).cpu().numpy() == truth[head][start : start + batch])
    coloured = renders.kind == 0
    distinct = np.isin(renders.class_id, [model.names["class"].index(name) for name in model.view_classes])
    counted = {"class": coloured, "color": coloured, "pattern": coloured, "view": coloured & distinct}
    return {head: float(np.concatenate(right[head])[counted[head]].mean()) for head in HEADS}
