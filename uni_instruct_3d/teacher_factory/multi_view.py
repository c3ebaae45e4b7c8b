"""The multi-view teacher: the single-view U-Net, told its cameras and trained on groups of views of one object.

Most steps see whole groups, whose views share background and noise level; the others see single views, so that the
network keeps what it knew (MVDream, arXiv 2308.16512, mixes in single pictures for the same reason) and learns what the
camera changes: views of one object that share their noise.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTokenizer

from uni_instruct_guidance.teachers.stable_diffusion.multi_view import CAMERAS, attend

from ..shapes_world.render import look_at
from .data import Renders
from .diffusion import Denoiser, denoising_loss, draw, stratified_times
from .presets import MultiViewConfig, UnetConfig
from .text import Captions, tokenise

#: What a caption says of its view.
VIEW_PHRASE = re.compile(r", \w+ view\b")


def cameras_of(renders: Renders, camera: str) -> Float[Tensor, "n 16"]:
    """What the network is told of each render's camera (a row of ``CAMERAS``); shifts of its aim do not count."""
    places = zip(renders.azimuth_deg, renders.elevation_deg, renders.distance)
    poses = torch.from_numpy(np.stack([look_at(*place) for place in places]))
    return CAMERAS[camera]({"c2w": poses, "fovy": torch.from_numpy(np.radians(renders.fovy_deg))})


class Views:
    """Latents of renders on one or several backgrounds with captions, cameras and how often each is drawn.

    ``group``: so many consecutive items show one object.
    """

    def __init__(
        self, latents: list[Float[Tensor, "n c h w"]], renders: Renders, words: UnetConfig, weights: Float[Tensor, "n"],
        config: MultiViewConfig, group: int,
    ):  # fmt: skip
        self.latents, self.captions, self.weights = latents, Captions(renders, words), weights
        self.cameras, self.group, self.unsaid = cameras_of(renders, config.camera), group, config.unsaid
        self.silent = [VIEW_PHRASE.sub("", text) for text in renders.caption]

    def take(
        self, index: Int[Tensor, "n"], share: Int[Tensor, "n"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "n c h w"], list[str], Float[Tensor, "n 16"]]:
        """Latents, texts and cameras of these items; those of one number in ``share`` have one background, and their
        views and cameras in words all or none."""
        count = int(share.max()) + 1
        which = torch.randint(len(self.latents), (count,), generator=generator)[share]
        clean = torch.stack([self.latents[k][i] for k, i in zip(which.tolist(), index.tolist())]).float()
        texts, _ = self.captions.draw(index, generator, share)
        unsaid = (torch.rand(count, generator=generator) < self.unsaid)[share]
        texts = [self.silent[i] if hush else text for i, text, hush in zip(index.tolist(), texts, unsaid.tolist())]
        return clean, texts, self.cameras[index]


def group_index(
    generator: torch.Generator, weights: Float[Tensor, "n"], groups: int, views: int
) -> tuple[Int[Tensor, "b"], Int[Tensor, "b"]]:
    """Rows of whole groups (consecutive items), drawn by the sum of their weights, and which group each is of."""
    whole = weights[: len(weights) // views * views].reshape(-1, views).sum(1)
    index = draw(generator, whole, groups)[:, None] * views + torch.arange(views)
    return index.flatten(), torch.arange(groups).repeat_interleave(views)


def multi_view_step(
    model: Denoiser, tokenizer: CLIPTokenizer, orbits: Views, singles: Views, config: MultiViewConfig,
    words: UnetConfig, device: torch.device, bf16: bool,
):  # fmt: skip
    """The step function: the single-view teacher's loss, with one noise level a group; single views of one object share
    their noise too."""

    def step(generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        alone = bool(torch.rand((), generator=generator) < config.single_share)
        source = orbits if not alone or bool(torch.rand((), generator=generator) < 0.5) else singles
        attend(model.unet, 1 if alone else config.views)
        count = config.optim.batch // source.group
        index, share = group_index(generator, source.weights, count, source.group)
        clean, texts, cameras = source.take(index, share, generator)
        time = stratified_times(generator, count, words.high_noise)[share]
        noise = torch.randn((count if alone else len(clean), *clean.shape[1:]), generator=generator)
        noise = noise[share] if alone else noise
        if words.caption_dropout:  # a group's captions are dropped together: guidance contrasts whole groups
            dropped = (torch.rand(count, generator=generator) < words.caption_dropout)[share]
            texts = ["" if gone else text for text, gone in zip(texts, dropped.tolist())]
        tokens = tokenise(tokenizer, texts, config.spoken(words), generator)
        loss, shown = denoising_loss(model, clean, noise, time, tokens, words, device, bf16, cameras=cameras)
        return loss, {"loss": loss.item(), "single_mse" if alone else "group_mse": shown}

    return step
