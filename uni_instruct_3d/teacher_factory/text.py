"""The teacher's words: captions, what a text encoder is asked to read in them, and how it learns that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from uni_instruct_guidance.core.camera_words import camera_bins, with_camera

from .data import Renders
from .presets import UnetConfig


class TextReader(nn.Module):
    """Text encoder and pooled-text embedding with linear heads that name what a caption asks for.

    Trained on words alone, in a minute, and frozen before the U-Net sees them. Trained together from the start, text is
    noise to an untrained U-Net and is switched off: within 450 steps the pooled features of different captions came as
    close as 0.15 deviations, and after 1,400 steps the captions were still all but ignored, the view words entirely.
    """

    def __init__(self, text_encoder: CLIPTextModel, pooled: nn.Module, width: int, answers: dict[str, int]):
        super().__init__()
        self.text_encoder, self.pooled = text_encoder, pooled
        self.heads = nn.ModuleDict({name: nn.Linear(width, count) for name, count in answers.items()})

    def forward(self, tokens: Int[Tensor, "n l"]) -> dict[str, Float[Tensor, "n k"]]:
        """Logits per label from the pooled text, linear so that facts combine by addition."""
        pooled = self.read(tokens)[1]
        return {name: head(pooled) for name, head in self.heads.items()}

    def read(self, tokens: Int[Tensor, "n l"]) -> tuple[Float[Tensor, "n l d"], Float[Tensor, "n w"]]:
        """States of the tokens (cross-attention's input) and the pooled text (beside the time embedding)."""
        states = self.text_encoder(tokens)[0]
        return states, self.pooled(states)


@torch.no_grad()
def standardise_pooled(model: TextReader, tokens: Int[Tensor, "n l"]) -> None:
    """Fold into the pooled embedding's last LayerNorm the affine map that gives every feature mean 0, deviation 1."""
    pooled = torch.cat([model.pooled(model.text_encoder(part)[0]) for part in tokens.split(250)]).double()
    mean, std = pooled.mean(0), pooled.std(0).clamp_min(1e-3)
    norm = model.pooled.norm2
    norm.weight.copy_(norm.weight / std)
    norm.bias.copy_((norm.bias - mean) / std)


class Captions:
    """What the text encoder reads: captions, a share ``camera_words`` of them with the words of their camera.

    ``labels`` are what a caption asks for; where the camera goes unsaid its labels are ``IGNORED``.
    """

    IGNORED = -100

    def __init__(self, renders: Renders, config: UnetConfig):
        self.texts, self.share = renders.caption, config.camera_words
        azimuth, elevation = torch.from_numpy(renders.azimuth_deg), torch.from_numpy(renders.elevation_deg)
        self.azimuth, self.elevation = camera_bins(azimuth, elevation)

    def draw(
        self, index: Int[Tensor, "n"], generator: torch.Generator, together: Int[Tensor, "n"] | None = None
    ) -> tuple[list[str], dict[str, Int[Tensor, "n"]]]:
        """Texts of these items and the labels of their cameras. Items of one number in ``together`` (0 .. count - 1)
        are told their camera all or none."""
        if not self.share:
            return [self.texts[i] for i in index.tolist()], {}
        said = torch.rand(len(index), generator=generator) < self.share
        said = said if together is None else said[together]
        texts = [
            with_camera(self.texts[i], int(self.azimuth[i]), int(self.elevation[i])) if tell else self.texts[i]
            for i, tell in zip(index.tolist(), said.tolist())
        ]
        labels = {"azimuth": self.azimuth[index], "elevation": self.elevation[index]}
        return texts, {name: torch.where(said, bins, self.IGNORED) for name, bins in labels.items()}

    def vocabulary(self) -> list[str]:
        """All texts that the tokenizer must know every word of."""
        return [*self.texts, with_camera("", 0, 0)] if self.share else self.texts


def text_step(
    model: TextReader, tokenizer: CLIPTokenizer, captions: Captions, labels: dict[str, Tensor], config: UnetConfig,
    device: torch.device, reference: TextReader | None = None,
):  # fmt: skip
    """The step function of the text phase: cross-entropy of every label, captions disturbed but never dropped.

    ``reference``: the reader that this one started from; the states of captions without camera words are held near its
    states, since a U-Net that starts from older weights still understands those.
    """
    spoken = replace(config, caption_dropout=0.0, noise_word=0.2)

    def step(generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        index = torch.randint(len(captions.texts), (config.text_optim.batch,), generator=generator)
        texts, cameras = captions.draw(index, generator)
        tokens = tokenise(tokenizer, texts, spoken, generator).to(device)
        states, pooled = model.read(tokens)
        truth = {name: values[index] for name, values in labels.items()} | cameras
        losses = {name: F.cross_entropy(model.heads[name](pooled), truth[name].to(device)) for name in model.heads}
        if reference is not None:
            known = (cameras["azimuth"] == Captions.IGNORED).to(device)
            with torch.no_grad():
                old_states, old_pooled = reference.read(tokens[known])
            losses["drift"] = F.mse_loss(states[known], old_states) + F.mse_loss(pooled[known], old_pooled)
        return sum(losses.values()), {name: value.item() for name, value in losses.items()}

    return step


def disturb(caption: str, rng: np.random.Generator, config: UnetConfig) -> str:
    """Caption as trained on: dropped for guidance, or with one made-up word in it (unknown words must do no harm)."""
    draw = rng.random()
    if draw < config.caption_dropout:
        return ""
    if draw < config.caption_dropout + config.noise_word:
        words = caption.split(" ")
        made_up = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(3, 8)))
        return " ".join([*words[:1], made_up, *words[1:]])
    return caption


def tokenise(
    tokenizer: CLIPTokenizer, captions: list[str], config: UnetConfig, generator: torch.Generator
) -> Int[Tensor, "n l"]:
    """Token ids of the disturbed captions."""
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    texts = [disturb(text, rng, config) for text in captions]
    return tokenizer(
        texts, padding="max_length", max_length=config.context, truncation=True, return_tensors="pt"
    ).input_ids
