"""The multi-view teacher: the single-view U-Net, told its cameras and trained on groups of views of one object.

Most steps see whole groups, whose views share background and noise level; the others see single views of the larger
set, so that the network keeps what it knew (MVDream, arXiv 2308.16512, mixes in single pictures for the same reason).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from uni_instruct_guidance.teachers.stable_diffusion.multi_view import attend, camera_matrix

from ..shapes_world.render import look_at
from .data import Renders
from .diffusion import build_scheduler, draw, layout_weight, min_snr_weight, stratified_times
from .presets import MultiViewConfig, UnetConfig
from .text import Captions, tokenise


class MultiViewDenoiser(nn.Module):
    """U-Net and text encoder as one module: what the trainer optimises and averages."""

    def __init__(self, unet: nn.Module, text_encoder: CLIPTextModel):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(
        self, noisy: Float[Tensor, "n c h w"], time: Int[Tensor, "n"], tokens: Int[Tensor, "n l"],
        cameras: Float[Tensor, "n 16"],
    ) -> Float[Tensor, "n c h w"]:  # fmt: skip
        """Predicted noise."""
        text = self.text_encoder(tokens)[0]
        return self.unet(noisy, time, encoder_hidden_states=text, class_labels=cameras).sample


def cameras_of(renders: Renders) -> Float[Tensor, "n 16"]:
    """What the network is told of each render's camera, by its angles: distance and aim do not count."""
    poses = [look_at(azimuth, elevation, 1.0) for azimuth, elevation in zip(renders.azimuth_deg, renders.elevation_deg)]
    return camera_matrix(torch.from_numpy(np.stack(poses)))


class Views:
    """Latents of renders on one or several backgrounds with captions, cameras and how often each is drawn."""

    def __init__(
        self, latents: list[Float[Tensor, "n c h w"]], renders: Renders, words: UnetConfig, weights: Float[Tensor, "n"]
    ):
        self.latents, self.captions, self.cameras = latents, Captions(renders, words), cameras_of(renders)
        self.weights = weights

    def take(
        self, index: Int[Tensor, "n"], share: Int[Tensor, "n"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "n c h w"], list[str], Float[Tensor, "n 16"]]:
        """Latents, texts and cameras of these items; those of one number in ``share`` have one background, and their
        cameras in words all or none."""
        which = torch.randint(len(self.latents), (int(share.max()) + 1,), generator=generator)[share]
        clean = torch.stack([self.latents[k][i] for k, i in zip(which.tolist(), index.tolist())]).float()
        texts, _ = self.captions.draw(index, generator, share)
        return clean, texts, self.cameras[index]


def group_index(
    generator: torch.Generator, weights: Float[Tensor, "n"], groups: int, views: int
) -> tuple[Int[Tensor, "b"], Int[Tensor, "b"]]:
    """Rows of whole groups (consecutive items), drawn by the sum of their weights, and which group each is of."""
    whole = weights[: len(weights) // views * views].reshape(-1, views).sum(1)
    index = draw(generator, whole, groups)[:, None] * views + torch.arange(views)
    return index.flatten(), torch.arange(groups).repeat_interleave(views)


def multi_view_step(
    model: MultiViewDenoiser, tokenizer: CLIPTokenizer, orbits: Views, singles: Views, config: MultiViewConfig,
    words: UnetConfig, device: torch.device, bf16: bool,
):  # fmt: skip
    """The step function: the single-view teacher's loss, with one noise level a group and other noise for each view."""
    alphas = build_scheduler().alphas_cumprod

    def step(generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        alone = bool(torch.rand((), generator=generator) < config.single_share)
        source, views = (singles, 1) if alone else (orbits, config.views)
        attend(model.unet, views)
        index, share = group_index(generator, source.weights, config.optim.batch // views, views)
        clean, texts, cameras = source.take(index, share, generator)
        time = stratified_times(generator, int(share.max()) + 1, words.high_noise)[share]
        noise = torch.randn(clean.shape, generator=generator).to(device)
        if words.caption_dropout:  # a group's captions are dropped together: guidance contrasts whole groups
            dropped = (torch.rand(int(share.max()) + 1, generator=generator) < words.caption_dropout)[share]
            texts = ["" if gone else text for text, gone in zip(texts, dropped.tolist())]
        tokens = tokenise(tokenizer, texts, config.spoken(words), generator)
        alpha_sq = alphas[time].to(device)
        noisy = alpha_sq.sqrt()[:, None, None, None] * clean.to(device)
        noisy = noisy + (1 - alpha_sq).sqrt()[:, None, None, None] * noise
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            predicted = model(noisy, time.to(device), tokens.to(device), cameras.to(device)).float()
        error = (predicted - noise).square().mean((1, 2, 3))
        snr = alpha_sq / (1 - alpha_sq)
        loss = (min_snr_weight(snr, words.min_snr) * layout_weight(snr, words.layout_cap) * error).mean()
        shown = error.detach().mean().item()
        return loss, {"loss": loss.item(), "single_mse" if alone else "group_mse": shown}

    return step
