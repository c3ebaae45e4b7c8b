"""A small open-clip model of the world, in a folder that ``open_clip`` loads by ``local-dir:<folder>``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .data import Renders, World
from .export import check_weights, save_weights
from .presets import ClipConfig
from .tokenizer import write_tokenizer

WEIGHTS = "open_clip_model.safetensors"
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def model_config(config: ClipConfig, vocabulary: int, size: int) -> dict:
    """What open-clip's JSON file says about the model."""
    return {
        "embed_dim": config.embed_dim,
        "vision_cfg": {
            "image_size": size, "layers": list(config.vision_layers), "width": config.vision_width,
            # the attention pool needs this many heads; open-clip derives it from width * 32 / head_width
            "head_width": config.vision_width * 32 // 8,
        },
        "text_cfg": {
            "context_length": config.context, "vocab_size": vocabulary, "width": config.text_width,
            "heads": config.text_heads, "layers": config.text_layers, "hf_tokenizer_name": "tokenizer of this folder",
            "tokenizer_kwargs": {"clean_up_tokenization_spaces": False},
        },
    }  # fmt: skip


def build_clip(folder: Path, config: ClipConfig, captions: list[str], size: int) -> nn.Module:
    """Write the folder's configuration and tokenizer, return the untrained model."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = len(write_tokenizer(folder, captions, config.context))
    preprocess = {"size": size, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic",
                  "resize_mode": "shortest"}  # fmt: skip
    text = json.dumps({"model_cfg": model_config(config, vocabulary, size), "preprocess_cfg": preprocess}, indent=2)
    (folder / "open_clip_config.json").write_text(text + "\n", encoding="utf-8")
    return open_clip.create_model(f"local-dir:{folder}", load_weights=False)


def save_clip(model: nn.Module, folder: Path) -> None:
    """Half-precision weights into the folder, atomically."""
    save_weights(model.state_dict(), folder / WEIGHTS)


def load_clip(folder: str | Path):
    """(model, preprocess, tokenizer) of a folder through open-clip itself; a truncated weights file is named."""
    check_weights(Path(folder))
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


def copy_tokenizer(source: Path, target: Path) -> None:
    """Give another folder the same tokenizer."""
    target.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / name, target / name)


def image_size(model: nn.Module) -> int:
    """Side of the pictures that the model takes; open-clip keeps one number or two."""
    size = model.visual.image_size
    return size if isinstance(size, int) else size[0]


def drop_facts(caption: str, patterns: tuple[str, ...], drop_pattern: bool, drop_view: bool) -> str:
    """``caption`` without its pattern word and / or its view phrase: users rarely say everything."""
    if drop_pattern:
        for word in patterns:
            caption = caption.replace(f" {word} ", " ", 1)
    if drop_view:
        caption = ", ".join(part for part in caption.split(", ") if not part.endswith(" view"))
    return caption


def matches(
    labels: dict[str, Tensor], pattern_said: Tensor, view_said: Tensor, look: Tensor
) -> Float[Tensor, "n n"]:
    """1 where image j shows everything that caption i says, else 0.

    ``look`` is the view as far as it can be seen: objects that look the same all round have two looks, not four.
    """

    def same(values: Tensor) -> Tensor:
        return values[:, None] == values[None, :]

    agree = same(labels["class"]) & same(labels["color"]) & same(labels["kind"])
    agree &= same(labels["pattern"]) | ~pattern_said[:, None]
    agree &= same(look) | ~view_said[:, None]
    return agree.float()


def contrastive_loss(
    image: Float[Tensor, "n d"], text: Float[Tensor, "n d"], scale: Tensor, positive: Float[Tensor, "n n"]
) -> Tensor:
    """Symmetric cross-entropy of CLIP with several right answers per row, each with an equal share."""
    logits = scale * text @ image.T
    by_text = (positive / positive.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    by_image = (positive / positive.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return -0.5 * (by_text + by_image)


def clip_step(
    model: nn.Module, tokenizer, renders: Renders, world: World, config: ClipConfig, group: int, device: torch.device
):
    """The step function of CLIP: half of the batch are groups of four views of one object, the hardest negatives."""
    from .diffusion import paired_index
    from .judge import augment, shrink

    size = image_size(model)
    names = ("class", "color", "pattern", "view", "kind")
    fields = (renders.class_id, renders.color_id, renders.pattern_id, renders.view_id, renders.kind)
    table = {name: torch.from_numpy(values) for name, values in zip(names, fields)}
    views_differ = torch.tensor([name in world.VIEW_CLASSES for name in world.CLASSES])
    overhead = world.VIEWS.index("overhead")
    uniform = torch.ones(len(renders), dtype=torch.float64)

    def step(generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        index, _ = paired_index(generator, uniform, config.optim.batch, group, 0.5)
        image = augment(shrink(renders.pictures(index, generator).to(device), size), generator)
        drop = torch.rand((2, len(index)), generator=generator) < config.drop_fact
        texts = [
            drop_facts(renders.caption[i], world.PATTERNS, bool(no_pattern), bool(no_view))
            for i, no_pattern, no_view in zip(index.tolist(), *drop)
        ]
        labels = {name: values[index].to(device) for name, values in table.items()}
        said = torch.tensor([any(word in text.split() for word in world.PATTERNS) for text in texts], device=device)
        viewed = torch.tensor([" view" in text for text in texts], device=device)
        distinct = views_differ.to(device)[labels["class"]]
        look = torch.where(distinct, labels["view"], (labels["view"] == overhead).long())
        features = model.encode_image(image, normalize=True)
        words = model.encode_text(tokenizer(texts).to(device), normalize=True)
        scale = model.logit_scale.exp().clamp_max(100.0)
        positive = matches(labels, said, viewed, look)
        loss = contrastive_loss(features, words, scale, positive)
        with torch.no_grad():
            best = (words @ features.T).argmax(1)
            hit = positive.gather(1, best[:, None]).mean().item()
        return loss, {"loss": loss.item(), "hit": hit}

    return step


@torch.no_grad()
def retrieval(
    model: nn.Module, tokenizer, renders: Renders, world: World, batch: int = 256
) -> Float[np.ndarray, "n"]:
    """1 per colour render whose caption "a {colour} {class}" is first among all class x colour captions, else 0."""
    from .judge import shrink

    captions = [f"a {color} {name}" for name in world.CLASSES for color in world.COLORS]
    text = F.normalize(model.encode_text(tokenizer(captions)), dim=-1)
    chosen = np.flatnonzero(renders.kind == 0)
    truth = renders.class_id * len(world.COLORS) + renders.color_id
    right = []
    for start in range(0, len(chosen), batch):
        part = chosen[start : start + batch]
        image = renders.pictures(torch.from_numpy(part), torch.Generator().manual_seed(start))
        image = shrink(image, image_size(model))
        found = (model.encode_image(image, normalize=True) @ text.T).argmax(1).numpy()
        right.append(found == truth[part])
    return np.concatenate(right).astype(np.float32)
