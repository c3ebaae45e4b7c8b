"""Draw with the teacher, let the judge look, write the quality table and the sample grids."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from .camera_report import camera_quality
from .judge import Judge
from .presets import ReportConfig


@dataclass(frozen=True)
class Asked:
    """One thing to draw: indices into the judge's names, and whether training ever saw the combination."""

    class_id: int
    color_id: int
    pattern_id: int
    view_id: int
    held_out: bool
    prompt: str


def everything(world, per_view: int = 1) -> list[Asked]:
    """Every class x colour x view, patterns in turn, ``per_view`` times with the pattern moved on each time."""
    asked = []
    for turn in range(per_view):
        for c, name in enumerate(world.CLASSES):
            for k, color in enumerate(world.COLORS):
                p = (c + k + turn) % len(world.PATTERNS)
                pattern = world.PATTERNS[p]
                held_out = world.is_held_out(name, color, pattern)
                for v, view in enumerate(world.VIEWS):
                    asked.append(Asked(c, k, p, v, held_out, world.caption(name, color, pattern, view)))
    return asked


def held_out_only(world) -> list[Asked]:
    """Every combination kept from training, in all four views."""
    asked = []
    for c, name in enumerate(world.CLASSES):
        for k, color in enumerate(world.COLORS):
            for p, pattern in enumerate(world.PATTERNS):
                if world.is_held_out(name, color, pattern):
                    for v, view in enumerate(world.VIEWS):
                        asked.append(Asked(c, k, p, v, True, world.caption(name, color, pattern, view)))
    return asked


@torch.no_grad()
def draw(
    pipeline: StableDiffusionPipeline, prompts: list[str], config: ReportConfig, seed: int = 0, progress: bool = True
) -> UInt8[np.ndarray, "n h w 3"]:
    """One image per prompt with the second-order DPM-Solver++; prompt i always starts from the noise of (seed, i)."""
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for start in tqdm(range(0, len(prompts), config.batch), desc="draw", unit="batch", disable=not progress):
        part = prompts[start : start + config.batch]
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(part))]
        with torch.autocast(pipeline.device.type, torch.bfloat16, enabled=config.bf16):
            drawn = pipeline(
                part, num_inference_steps=config.sampling_steps, guidance_scale=config.guidance,
                generator=generators, output_type="np",
            ).images  # fmt: skip
        images.append((drawn * 255.0).round().astype(np.uint8))
    return np.concatenate(images)


def verdicts(judge: Judge, images: UInt8[np.ndarray, "n h w 3"], asked: list[Asked]) -> dict[str, np.ndarray]:
    """Per head, which images show what was asked (bool [n])."""
    truth = {
        "class": [a.class_id for a in asked], "color": [a.color_id for a in asked],
        "pattern": [a.pattern_id for a in asked], "view": [a.view_id for a in asked],
    }  # fmt: skip
    found: dict[str, list[np.ndarray]] = {head: [] for head in truth}
    for start in range(0, len(images), 256):
        logits = judge(images[start : start + 256])
        for head, answers in found.items():
            answers.append(logits[head].argmax(1).cpu().numpy())
    return {head: np.concatenate(found[head]) == np.asarray(truth[head]) for head in truth}


def quality(judge: Judge, images: np.ndarray, asked: list[Asked]) -> dict:
    """Shares of right answers: over all, per class, per view word, seen against held-out combinations.

    View counts over the classes whose views differ.
    """
    right = verdicts(judge, images, asked)
    names = judge.names["class"]
    class_id = np.array([a.class_id for a in asked])
    view_id = np.array([a.view_id for a in asked])
    held_out = np.array([a.held_out for a in asked])
    distinct = np.array([names[c] in judge.view_classes for c in class_id])

    def shares(chosen: np.ndarray) -> dict[str, float]:
        counted = {"class": chosen, "color": chosen, "pattern": chosen, "view": chosen & distinct}
        return {head: float(right[head][mask].mean()) for head, mask in counted.items() if mask.any()}

    return {
        "images": len(asked),
        "all": shares(np.ones(len(asked), bool)),
        "seen": shares(~held_out),
        "held_out": shares(held_out),
        "per_view": {view: shares(view_id == v) for v, view in enumerate(judge.names["view"])},
        "per_class": {name: shares(class_id == c) for c, name in enumerate(names) if (class_id == c).any()},
    }


def table(result: dict) -> str:
    """The quality dictionary as a Markdown table in per cent."""
    heads = ("class", "color", "pattern", "view")
    lines = ["| | class | colour | pattern | view |", "|---|---|---|---|---|"]

    def row(title: str, shares: dict[str, float]) -> None:
        cells = [f"{100 * shares[head]:.1f}" if head in shares else "–" for head in heads]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")

    row("**all**", result["all"])
    row("combinations seen in training", result["seen"])
    row("held-out combinations", result["held_out"])
    for view, shares in result["per_view"].items():
        row(f"“{view} view”", shares)
    for name, shares in result["per_class"].items():
        row(name, shares)
    return "\n".join(lines)


def insert_table(card: Path, text: str) -> None:
    """Replace what stands between the two quality marks of a model card. Raises ValueError if a mark is missing."""
    start, end = "<!-- quality table -->", "<!-- end of quality table -->"
    content = card.read_text(encoding="utf-8")
    before, found, rest = content.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{card} lacks the marks {start!r} and {end!r} between which the table goes")
    card.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")


def grid(images: UInt8[np.ndarray, "n h w 3"], columns: int) -> Image.Image:
    """Images in rows of ``columns``, white where the last row ends early."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height, width, 3), 255, np.uint8)
    sheet[:count] = images
    sheet = sheet.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(sheet.reshape(rows * height, columns * width, 3))


def sheet_prompts(world) -> list[str]:
    """Four views of every class, colours and patterns in turn: the grid shown while training."""
    prompts = []
    for c, name in enumerate(world.CLASSES):
        color, pattern = world.COLORS[c % len(world.COLORS)], world.PATTERNS[c % len(world.PATTERNS)]
        prompts += [world.caption(name, color, pattern, view) for view in world.VIEWS]
    return prompts


def forward_ms(pipeline: StableDiffusionPipeline, pairs: int = 4, repeats: int = 10) -> float:
    """Milliseconds of one U-Net call on ``pairs`` guided latents (batch 2 x pairs), median of ``repeats``."""
    unet = pipeline.unet
    size, width = unet.config.sample_size, unet.config.cross_attention_dim
    latents = torch.zeros(2 * pairs, unet.config.in_channels, size, size, device=unet.device, dtype=unet.dtype)
    text = torch.zeros(2 * pairs, pipeline.tokenizer.model_max_length, width, device=unet.device, dtype=unet.dtype)
    times = []
    with torch.no_grad():
        for _ in range(repeats + 2):
            start = time.perf_counter()
            unet(latents, 500, encoder_hidden_states=text)
            times.append(1000.0 * (time.perf_counter() - start))
    return float(np.median(times[2:]))


def make_report(
    pipeline: StableDiffusionPipeline, judge: Judge, world, config: ReportConfig, folder: Path, seed: int = 0
) -> dict:  # fmt: skip
    """Draw everything, judge it, and write quality.json, quality.md and one grid per class into ``folder``.

    Two sets: every class x colour x view with patterns in turn, and every combination kept from training. Grids have a
    row per colour and a column per view word. Returns what quality.json holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked = everything(world, config.per_view)
    images = draw(pipeline, [a.prompt for a in asked], config, seed)
    kept_back = held_out_only(world)
    kept_images = draw(pipeline, [a.prompt for a in kept_back], config, seed + 1)
    result = quality(judge, images, asked)
    result["held_out"] = quality(judge, kept_images, kept_back)["all"]
    result["held_out_images"] = len(kept_back)
    if config.camera_words:
        result["camera"] = camera_quality(pipeline, judge, world, config, seed + 2)
    result["unet_forward_ms_4_pairs"] = forward_ms(pipeline)
    result["settings"] = asdict(config) | {"seed": seed, "threads": torch.get_num_threads()}
    (folder / "quality.json").write_text(json.dumps(result, indent=2) + "\n")
    (folder / "quality.md").write_text(table(result) + "\n")
    class_id = np.array([a.class_id for a in asked])
    for c, name in enumerate(judge.names["class"]):
        grid(images[class_id == c], len(judge.names["view"])).save(folder / f"{name.replace(' ', '_')}.png")
    return result
