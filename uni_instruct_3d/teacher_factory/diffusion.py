"""The teacher's U-Net, trained on latents and captions; its text encoder learns to read first, see :mod:`.text`."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .presets import UnetConfig
from .text import Captions, tokenise


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule, kept as it is: its last step still holds alpha^2 = 0.0047 of the image.

    With noise prediction a zero terminal SNR would divide by alpha = 0, in the sampler and in every x0 estimate of
    score distillation; the price, a slight pull of the mean brightness, is not visible on these plain backgrounds.
    Samples of this VAE need no clipping (``clip_sample=False``): latents are whitened, not bounded.
    """
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon",
        timestep_spacing="leading",
    )  # fmt: skip


def build_text_encoder(config: UnetConfig, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text model over the word-level vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=config.text_width, intermediate_size=4 * config.text_width,
            projection_dim=config.text_width, num_hidden_layers=config.text_layers,
            num_attention_heads=config.text_heads, max_position_embeddings=config.context, hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def build_unet(config: UnetConfig, latent_size: int, latent_channels: int = 4) -> UNet2DConditionModel:
    """SD's block layout: cross-attention everywhere but on the finest level, pooled text beside the time embedding."""
    levels = len(config.channels)
    unet = UNet2DConditionModel(
        sample_size=latent_size, in_channels=latent_channels, out_channels=latent_channels,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
        up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
        block_out_channels=config.channels, layers_per_block=config.layers, norm_num_groups=config.norm_groups,
        cross_attention_dim=config.text_width,
        attention_head_dim=config.heads,  # diffusers: this is the number of heads
        resnet_time_scale_shift="scale_shift", addition_embed_type="text", addition_embed_type_num_heads=config.heads,
    )  # fmt: skip
    # plain attention: the backward pass of fused attention on a CPU costs a third of a step
    unet.set_attn_processor(AttnProcessor())
    return unet


class Denoiser(nn.Module):
    """U-Net and text encoder as one module: what the trainer optimises and averages."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(
        self, noisy: Float[Tensor, "n c h w"], time: Int[Tensor, "n"], tokens: Int[Tensor, "n l"],
        cameras: Float[Tensor, "n 16"] | None = None,
    ) -> Float[Tensor, "n c h w"]:  # fmt: skip
        """Predicted noise. ``cameras``: what a multi-view U-Net is told of them."""
        text = self.text_encoder(tokens)[0]
        return self.unet(noisy, time, encoder_hidden_states=text, class_labels=cameras).sample


def item_weights(renders, world, config: UnetConfig) -> Float[Tensor, "n"]:
    """How often each render is drawn, relative to the others: more of what is hardest to learn.

    An overhead view shows a class from any azimuth and mostly its top; at equal shares the class was right in 71 % of
    overhead views where it was in 96 % of the others.
    """
    weights = torch.ones(len(renders.class_id), dtype=torch.float64)
    weights[torch.from_numpy(renders.view_id == world.VIEWS.index("overhead"))] *= config.overhead
    hard = [world.CLASSES.index(name) for name in config.hard_classes]
    weights[torch.from_numpy(np.isin(renders.class_id, hard))] *= config.hard
    return weights


def draw(generator: torch.Generator, weights: Float[Tensor, "n"], count: int) -> Int[Tensor, "count"]:
    """Indices with probability proportional to ``weights``, by inversion: one uniform number each."""
    total = weights.cumsum(0)
    height = torch.rand(count, generator=generator, dtype=torch.float64) * total[-1]
    return torch.searchsorted(total, height, right=True)


def paired_index(
    generator: torch.Generator, weights: Float[Tensor, "n"], batch: int, group: int, paired: float
) -> tuple[Int[Tensor, "batch"], Int[Tensor, "batch"]]:
    """Which items make a batch, and which of them share noise and time.

    A share ``paired`` of the batch are whole groups (one object under the four view words) that share one noise and
    one time: their differences then come from the view word alone. The rest are independent items. Items are drawn by
    their ``weights``, groups by the sum of theirs.
    """
    groups = int(paired * batch) // group
    whole = weights[: len(weights) // group * group].reshape(-1, group).sum(1)
    together = (draw(generator, whole, groups)[:, None] * group + torch.arange(group)).flatten()
    single = draw(generator, weights, batch - len(together))
    share = torch.cat([torch.arange(groups).repeat_interleave(group), groups + torch.arange(len(single))])
    return torch.cat([together, single]), share


def stratified_times(generator: torch.Generator, count: int, power: float) -> Int[Tensor, "count"]:
    """Times 0..999, one from each of ``count`` equal strata in random order; ``power`` < 1 leans to high noise."""
    u = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    return (u.pow(power) * 1000).long().clamp_max(999)


def min_snr_weight(snr: Float[Tensor, "n"], gamma: float) -> Float[Tensor, "n"]:
    """min(SNR, gamma)/SNR, for noise prediction (Hang et al. 2023, Eq. 7)."""
    return snr.clamp_max(gamma) / snr


def layout_weight(snr: Float[Tensor, "n"], cap: float) -> Float[Tensor, "n"]:
    """min(1 + 1/SNR, cap)/4: what turns a noise-prediction loss into a velocity loss, cut off at the noisiest end.

    Class and view are decided at high noise, where the error of the predicted noise is small whatever is drawn: there
    the captions are worth 0.005 of a loss of 0.1. Velocity weights make all noise levels count about equally. (The
    factor 1/4 keeps the size of the loss.)
    """
    return (1.0 + 1.0 / snr).clamp_max(cap) / 4.0


@cache
def _alphas_cumprod() -> Float[Tensor, "1000"]:
    return build_scheduler().alphas_cumprod


def denoising_loss(
    model: Denoiser, clean: Float[Tensor, "n c h w"], noise: Float[Tensor, "n c h w"], time: Int[Tensor, "n"],
    tokens: Int[Tensor, "n l"], config: UnetConfig, device: torch.device, bf16: bool, layout: bool = True,
    cameras: Float[Tensor, "n 16"] | None = None,
) -> tuple[Float[Tensor, ""], float]:  # fmt: skip
    """Epsilon-MSE with min-SNR weights, and what it is without weights. ``layout``: see :func:`layout_weight`."""
    alpha_sq = _alphas_cumprod()[time].to(device)
    clean, noise, time, tokens = (x.to(device) for x in (clean, noise, time, tokens))
    cameras = None if cameras is None else cameras.to(device)
    noisy = alpha_sq.sqrt()[:, None, None, None] * clean + (1 - alpha_sq).sqrt()[:, None, None, None] * noise
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        predicted = model(noisy, time, tokens, cameras).float()
    error = (predicted - noise).square().mean((1, 2, 3))
    snr = alpha_sq / (1 - alpha_sq)
    weight = min_snr_weight(snr, config.min_snr)
    if layout:
        weight = weight * layout_weight(snr, config.layout_cap)
    return (weight * error).mean(), error.detach().mean().item()


def denoiser_step(
    model: Denoiser, tokenizer: CLIPTokenizer, latents: list[Float[Tensor, "n c h w"]], captions: Captions,
    weights: Float[Tensor, "n"], config: UnetConfig, group: int, device: torch.device, bf16: bool,
):  # fmt: skip
    """The step function: epsilon-MSE with min-SNR weights over half paired, half independent items.

    ``latents``: the same items on one or several backgrounds, of which each use takes one.
    """

    def step(generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        index, share = paired_index(generator, weights, config.optim.batch, group, config.paired)
        count = int(share.max()) + 1
        time = stratified_times(generator, count, config.high_noise)[share]
        noise = torch.randn((count, *latents[0].shape[1:]), generator=generator)[share]
        which = torch.randint(len(latents), (count,), generator=generator)[share] if len(latents) > 1 else share * 0
        texts, _ = captions.draw(index, generator, share)
        tokens = tokenise(tokenizer, texts, config, generator)
        clean = torch.stack([latents[k][i] for k, i in zip(which.tolist(), index.tolist())]).float()
        layout = number >= config.layout_from
        loss, error = denoising_loss(model, clean, noise, time, tokens, config, device, bf16, layout)
        return loss, {"loss": loss.item(), "eps_mse": error}

    return step
