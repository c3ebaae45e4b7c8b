"""``stable-diffusion-prompt-processor``: the CLIP text encoder of a Stable-Diffusion-format teacher."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

import threestudio
from threestudio.models.prompt_processors.base import PromptProcessor
from threestudio.utils.errors import UserError

#: What a missing, foreign or damaged model raises in transformers.
LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError)


@threestudio.register("stable-diffusion-prompt-processor")
class StableDiffusionPromptProcessor(PromptProcessor):
    """Last hidden states of the text encoder, as Stable Diffusion's U-Net attends to them.

    The encoder runs in float32 whatever type it is stored in, since its cost is nothing beside a training step.
    """

    @dataclass
    class Config(PromptProcessor.Config):
        """Fields as in PromptProcessor."""

    cfg: Config

    def _load(self) -> tuple:
        from transformers import CLIPTextModel, CLIPTokenizer

        name = self.cfg.pretrained_model_name_or_path
        try:
            tokenizer = CLIPTokenizer.from_pretrained(name, subfolder="tokenizer")
            encoder, report = CLIPTextModel.from_pretrained(
                name, subfolder="text_encoder", use_safetensors=True, output_loading_info=True
            )
            if report["missing_keys"]:
                raise ValueError(f"its weights lack {sorted(report['missing_keys'])[0]} and more")
        except LOAD_ERRORS as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"system.prompt_processor.pretrained_model_name_or_path={name}: no readable tokenizer/ and "
                f"text_encoder/ there, neither as a folder nor on the hub ({reason})"
            ) from error
        return tokenizer, encoder.float().eval().requires_grad_(False).to(self.device)

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Float[Tensor, "N L D"]:
        """Embeddings of the prompts, each padded or cut to the tokenizer's length."""
        tokenizer, encoder = self._load()
        length = tokenizer.model_max_length
        for prompt in prompts:
            needed = len(tokenizer(prompt).input_ids)
            if needed > length:
                threestudio.warn(f"prompt of {needed} tokens is cut to {length}: {prompt[:60]!r}...")
        tokens = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return encoder(tokens.input_ids.to(self.device))[0]

    def fingerprint(self) -> str:
        """Content of a local folder's tokenizer and encoder, weights and configuration; a hub id does not change."""
        folder = Path(self.cfg.pretrained_model_name_or_path)
        files = sorted(file for part in ("tokenizer", "text_encoder") for file in (folder / part).glob("*"))
        stamped = ((f, f.stat()) for f in files if f.is_file())
        return ";".join(f"{f.name}:{_content(str(f), stat.st_size, stat.st_mtime_ns)}" for f, stat in stamped)


@lru_cache(maxsize=64)
def _content(file: str, size: int, time: int) -> str:
    """SHA-256, shortened; gigabytes are read once per process while size and time stay."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()[:24]
