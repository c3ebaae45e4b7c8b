"""Prompts as the U-Net of a Stable-Diffusion-format teacher reads them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from ...core.errors import UserError
from ..contract import Conditions

# What a missing, foreign or damaged model raises in transformers.
LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError)


class PromptConditions(Conditions):
    """Prompts of a list, all as frequent; texts are encoded when they are asked for, so the list may be long.

    Args:
        teacher: folder or hub id, checked.
        prompts: at least one.
        negative: the unconditional branch's text.
        captions: further rows, behind the prompts, that are never drawn: those of real pictures. Without any prompt
            they are drawn.
    Raises:
        UserError: the teacher's tokenizer or text encoder cannot be read.
    """

    def __init__(
        self,
        teacher: str,
        prompts: Sequence[str],
        negative: str = "",
        cache_dir: str | None = None,
        captions: Sequence[str] = (),
    ) -> None:
        from transformers import CLIPTextModel, CLIPTokenizer

        try:
            self.tokenizer = CLIPTokenizer.from_pretrained(teacher, subfolder="tokenizer", cache_dir=cache_dir)
            encoder = CLIPTextModel.from_pretrained(
                teacher, subfolder="text_encoder", use_safetensors=True, cache_dir=cache_dir
            )
        except LOAD_ERRORS as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"teacher={teacher!r}: no readable tokenizer/ and text_encoder/ ({reason})") from error
        # in float32 whatever it is stored in: its cost is nothing beside the U-Nets'
        self.encoder = encoder.float().eval().requires_grad_(False)
        self.prompts, self.negative = [*prompts, *captions], negative
        self.count, drawn = len(self.prompts), len(prompts) or len(captions)
        self.frequencies = torch.zeros(self.count)
        self.frequencies[:drawn] = 1 / drawn
        self.length = self.tokenizer.model_max_length
        self._null: Tensor | None = None

    def too_long(self) -> list[tuple[str, str]]:
        """Prompts beyond the tokenizer's context, each with the words at its end that are not seen."""
        found = []
        for prompt in self.prompts:
            if len(prompt) < self.length:  # a token has at least one letter
                continue
            ids = self.tokenizer(prompt, add_special_tokens=False).input_ids
            if len(ids) > self.length - 2:
                found.append((prompt, self.tokenizer.decode(ids[self.length - 2 :])))
        return found

    @torch.no_grad()
    def embed(self, texts: Sequence[str], device: torch.device) -> Float[Tensor, "B L D"]:
        """Last hidden states, padded or cut to the tokenizer's length; every distinct text is encoded once."""
        distinct = list(dict.fromkeys(texts))
        tokens = self.tokenizer(
            distinct, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        self.encoder.to(device)
        with torch.autocast(device.type, enabled=False):
            states = self.encoder(tokens.input_ids.to(device))[0]
        place = {text: index for index, text in enumerate(distinct)}
        return states[torch.tensor([place[text] for text in texts], device=device)]

    def of(self, rows: Tensor, device: torch.device) -> Float[Tensor, "B L D"]:
        return self.embed(self.texts(rows), torch.device(device))

    def null(self, rows: Tensor, device: torch.device) -> Float[Tensor, "B L D"]:
        device = torch.device(device)
        if self._null is None or self._null.device != device:
            self._null = self.embed([self.negative], device)
        return self._null.expand(len(rows), -1, -1)

    def texts(self, rows: Tensor) -> list[str]:
        return [self.prompts[int(row)] for row in rows]
