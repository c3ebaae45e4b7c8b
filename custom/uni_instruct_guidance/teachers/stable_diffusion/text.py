"""Prompts as the U-Net of a Stable-Diffusion-format teacher reads them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from ...core.errors import UserError
from ..contract import Conditions

# Texts are kept once encoded where all of them fit in so many bytes.
KEPT_BYTES = 1 << 28
# What a missing, foreign or damaged model raises in transformers.
LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError)


class PromptConditions(Conditions):
    """Prompts of a list, all as frequent; texts are encoded when they are asked for, so the list may be long.

    A list that fits in `KEPT_BYTES` is encoded once: each text when it is asked for first.

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
        needed = self.count * self.length * int(self.encoder.config.hidden_size) * 4
        # text ↦ its states once they are known; None where the list is too long to keep
        self._kept = dict.fromkeys([*self.prompts, negative]) if needed <= KEPT_BYTES else None

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

    def embed(self, texts: Sequence[str], device: torch.device) -> Float[Tensor, "B L D"]:
        """Last hidden states, padded or cut to the tokenizer's length."""
        distinct = list(dict.fromkeys(texts))
        if self._kept is None or not self._kept.keys() >= {*distinct}:
            states = dict(zip(distinct, self._encode(distinct, device)))
            return torch.stack([states[text] for text in texts])
        for text in distinct:
            if self._kept[text] is None or self._kept[text].device != device:
                # alone: its last bits must not depend on its company, or a resumed run would differ
                self._kept[text] = self._encode([text], device)[0]
        return torch.stack([self._kept[text] for text in texts])

    @torch.no_grad()
    def _encode(self, distinct: list[str], device: torch.device) -> Float[Tensor, "B L D"]:
        tokens = self.tokenizer(
            distinct, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        self.encoder.to(device)
        with torch.autocast(device.type, enabled=False):
            return self.encoder(tokens.input_ids.to(device))[0]

    def of(self, rows: Tensor, device: torch.device) -> Float[Tensor, "B L D"]:
        return self.embed(self.texts(rows), torch.device(device))

    def null(self, rows: Tensor, device: torch.device) -> Float[Tensor, "B L D"]:
        device = torch.device(device)
        if self._null is None or self._null.device != device:
            self._null = self.embed([self.negative], device)
        return self._null.expand(len(rows), -1, -1)

    def texts(self, rows: Tensor) -> list[str]:
        return [self.prompts[int(row)] for row in rows]
