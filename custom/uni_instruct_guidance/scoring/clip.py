"""CLIP similarity of pictures and prompts, through open-clip: numbers for tables, and a gradient for rewards."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from ..core.files import found

# The small CLIP of the built-in world: what scores when no other weights are given.
BUILTIN = "local-dir:load/clip/shapes"
SCHEMAS = ("local-dir:", "hf-hub:")
# CLIPScore (Hessel et al. 2021): w·max(cos, 0) with w = 2.5. Tools that leave w out differ by that factor.
CLIPSCORE_WEIGHT = 2.5
BATCH = 32
# What weights that are missing, cut short or no weights at all raise, by reader and by where they break off.
READ_ERRORS = (RuntimeError, OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError)


class ClipScorer:
    """A frozen open-clip model with its own preprocessing and tokenizer.

    Args:
        model: open-clip architecture (`ViT-L-14`), `local-dir:FOLDER` or `hf-hub:ID`.
        pretrained: for an architecture its tag (`openai`) or a weights file (.safetensors, or .pt read as plain
            tensors); nothing for the other two.
        device: where to compute.

    Raises:
        ValueError: unknown model or weights, weights that cannot be read, or an architecture without weights.
    """

    def __init__(self, model: str = BUILTIN, pretrained: str | None = None, device: str | torch.device = "cpu"):
        import open_clip

        self.device = torch.device(device)
        self.name = model if pretrained is None else f"{model}/{pretrained}"
        _check_choice(open_clip, model, pretrained)
        found = _existing_folder(model)
        try:
            # A tag says which activation its weights were trained with; open-clip itself only warns of another one.
            quick = bool(open_clip.get_pretrained_cfg(model, pretrained or "").get("quick_gelu"))
            network = open_clip.create_model(
                found, pretrained=pretrained, force_quick_gelu=quick, require_pretrained=True
            )
            settings = open_clip.transform.PreprocessCfg(**network.visual.preprocess_cfg)
            self.preprocess = open_clip.transform.image_transform_v2(settings, is_train=False)
            self._tokenizer = open_clip.get_tokenizer(found)
        except READ_ERRORS as error:
            raise ValueError(
                f"model={model!r}, pretrained={pretrained!r} cannot be loaded: {' '.join(str(error).split())[:200]}"
            ) from error
        self.model = network.to(self.device).eval().requires_grad_(False)
        # open-clip's own steps that work on tensors too; what is left out turns a file's picture into a tensor
        self._tensor_steps = [step for step in self.preprocess.transforms if isinstance(step, nn.Module)]
        size = network.visual.image_size
        self.size: int = size if isinstance(size, int) else size[0]
        self._texts: dict[str, Tensor] = {}
        self.width = self.embed_texts(["a"]).shape[-1]

    @property
    def is_builtin(self) -> bool:
        """Is this the small CLIP that knows the words of the built-in world and no others?"""
        return self.name == BUILTIN

    @property
    def label(self) -> str:
        """What every printed line says about where its numbers come from."""
        if self.is_builtin:
            return f"built-in small CLIP ({BUILTIN.removeprefix('local-dir:')}; knows the built-in world only)"
        return f"CLIP {self.name}"

    def embed(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        """Unit embeddings of pictures in 0..1, differentiable.

        Resizing, cropping and normalisation are the model's own, on tensors. They differ from `embed_pictures` by
        the rounding to 8 bits after resizing: less than 1/255 per pixel.
        """
        x = images.to(self.device).permute(0, 3, 1, 2)
        for step in self._tensor_steps:
            x = step(x)
        if x.shape[-2:] != (self.size, self.size):
            raise ValueError(f"{self.label} needs square pictures as tensors, got {list(images.shape[1:3])}")
        return F.normalize(self.model.encode_image(x), dim=-1)

    @torch.no_grad()
    def embed_pictures(self, pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> Float[Tensor, "N D"]:
        """Unit embeddings of 8-bit pictures through the model's own preprocessing of files; on the CPU."""
        parts = []
        for start in range(0, len(pictures), BATCH):
            batch = [self.preprocess(Image.fromarray(np.asarray(p))) for p in pictures[start : start + BATCH]]
            parts.append(F.normalize(self.model.encode_image(torch.stack(batch).to(self.device)), dim=-1).cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "P D"]:
        """Unit embeddings of prompts; each is computed once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            features = F.normalize(self.model.encode_text(self._tokenizer(batch).to(self.device)), dim=-1)
            self._texts.update(zip(batch, features))
        return torch.stack([self._texts[text] for text in texts])

    def cosine(self, pictures: Sequence[np.ndarray], prompt: str) -> Float[Tensor, "N"]:
        """Cosine similarity of each 8-bit picture and the prompt, −1..1."""
        return self.embed_pictures(pictures) @ self.embed_texts([prompt])[0].cpu()


def clip_numbers(cosine: Float[Tensor, "N"]) -> dict[str, float]:
    """The conventions in use: mean cosine, the same ×100 (a "CLIP score" in points), and CLIPScore 2.5·max(cos, 0)."""
    return {
        "cosine": cosine.mean().item(),
        "clip_x100": 100 * cosine.mean().item(),
        "clipscore": CLIPSCORE_WEIGHT * cosine.clamp(min=0).mean().item(),
    }


def first_in_list(
    images: Float[Tensor, "N D"], texts: Float[Tensor, "P D"], truth: int
) -> tuple[Float[Tensor, "N"], int]:
    """R-precision with R = 1.

    Args:
        images, texts: unit embeddings; `truth` is the index of the right prompt.

    Returns:
        1 per picture whose right prompt beats every other one (a tie does not), else 0; and the rank (from 1) of the
        right prompt for the object as a whole, by its cosine averaged over the pictures.
    """
    cosine = images @ texts.T
    others = torch.arange(len(texts)) != truth
    right = (cosine[:, others] < cosine[:, truth : truth + 1]).all(1).float()
    mean = cosine.mean(0)
    return right, 1 + int((mean[others] >= mean[truth]).sum())


def diversity(embeddings: Float[Tensor, "S N D"]) -> float:
    """Mean of 1 − cosine over all pairs of seeds, view by view.

    Args:
        embeddings: unit embeddings of N views of each of S >= 2 seeds, in the same order of views.

    Raises:
        ValueError: fewer than two seeds.
    """
    seeds = len(embeddings)
    if seeds < 2:
        raise ValueError(f"diversity compares seeds, got {seeds}; give at least 2")
    cosine = torch.einsum("ivd,jvd->ijv", embeddings, embeddings)
    first, second = torch.triu_indices(seeds, seeds, offset=1)
    return (1 - cosine[first, second]).mean().item()


def _check_choice(open_clip, model: str, pretrained: str | None) -> None:
    """What open-clip would answer with random weights or a long traceback."""
    if model.startswith(SCHEMAS):
        if pretrained is not None:
            raise ValueError(f"pretrained={pretrained!r} cannot go with model={model!r}, which brings its own weights")
        return
    if model not in open_clip.list_models():
        raise ValueError(
            f"model={model!r} is no open-clip architecture; choose one of its {len(open_clip.list_models())} "
            f"(ViT-B-32, ViT-L-14, …), local-dir:FOLDER or hf-hub:ID"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained is None or not (pretrained in tags or Path(pretrained).is_file()):
        raise ValueError(
            f"pretrained={pretrained!r} of model={model!r} is no weights file and no tag; choose one of "
            f"{', '.join(tags) or 'a file, it has no tags'}"
        )


def _existing_folder(model: str) -> str:
    """`local-dir:` folders are looked up in the working folder, then in the repository this file lies in."""
    if not model.startswith("local-dir:"):
        return model
    folder = found(model.removeprefix("local-dir:"))
    return f"local-dir:{folder}" if folder.is_dir() else model
