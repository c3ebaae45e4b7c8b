"""The teacher's autoencoder: AutoencoderKL trained on renders, its latents whitened inside its own 1x1 convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from .data import Renders
from .presets import VaeConfig


def build_vae(config: VaeConfig, size: int) -> AutoencoderKL:
    """A small AutoencoderKL: one halving per entry of ``channels`` after the first; no attention in the middle."""
    levels = len(config.channels)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        sample_size=size,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def opponent(image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2 h w"]:
    """Red-green and blue-yellow differences."""
    red, green, blue = image.unbind(1)
    return torch.stack([red - green, blue - 0.5 * (red + green)], dim=1)


def vae_loss(
    output: Float[Tensor, "n 3 h w"], image: Float[Tensor, "n 3 h w"], foreground: Float[Tensor, "n 1 h w"],
    config: VaeConfig,
) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
    """L1 with the object weighted, chroma on 4x4-pooled images, and L1 of finite differences (edges).

    Plain L1 spends its effort on background and shape and turns red into brown; hence the weights and the chroma term.
    """
    weight = 1.0 + (config.foreground - 1.0) * foreground
    weight = weight / weight.mean()
    error = output - image
    l1 = (weight * error.abs()).mean()
    chroma = (F.avg_pool2d(weight, 4) * F.avg_pool2d(opponent(error), 4).abs()).mean()
    edges = (weight[..., 1:] * error.diff(dim=-1).abs()).mean() + (weight[..., 1:, :] * error.diff(dim=-2).abs()).mean()
    loss = l1 + config.chroma * chroma + config.edges * edges
    mse = error.detach().square().mean().item() / 4  # images span 2, PSNR is for a span of 1
    return loss, {"l1": l1.item(), "chroma": chroma.item(), "mse": mse}


def _crop(image: Float[Tensor, "n c h w"], size: int, generator: torch.Generator) -> Float[Tensor, "n c s s"]:
    """One random square of every picture."""
    corners = torch.randint(image.shape[-1] - size + 1, (len(image), 2), generator=generator).tolist()
    return torch.stack([x[:, top : top + size, left : left + size] for x, (top, left) in zip(image, corners)])


def vae_step(vae: AutoencoderKL, renders: Renders, config: VaeConfig, device: torch.device, bf16: bool):
    """The step function of the VAE's training: random renders, posterior sample plus a little noise, decode.

    Most steps see squares of ``config.crop`` pixels: the network is convolutional, and a step costs what its pixels
    cost. The last ones see whole pictures, over which its group norms average differently.
    """
    masks = torch.from_numpy(renders.foreground)

    def step(generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        index = torch.randint(len(renders), (config.optim.batch,), generator=generator)
        image = renders.pictures(index, generator).to(device)
        foreground = (masks[index] > 0).to(device).float()[:, None]
        if number < config.crop_share * config.optim.steps:
            image, foreground = _crop(torch.cat([image, foreground], 1), config.crop, generator).split([3, 1], 1)
        shape = (config.optim.batch, config.latent_channels, image.shape[2] // 2 ** (len(config.channels) - 1),
                 image.shape[3] // 2 ** (len(config.channels) - 1))  # fmt: skip
        noise, extra = torch.randn((2, *shape), generator=generator).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            posterior = vae.encode(image).latent_dist
            mean, std = posterior.mean.float(), posterior.std.float()
            # decoder robustness: the U-Net's latents are never exact
            latent = mean + std * noise + config.latent_noise * mean.detach().std() * extra
            output = vae.decode(latent).sample.float()
        kl = 0.5 * (mean.square() + std.square() - 1.0 - 2.0 * std.log()).mean()
        loss, scalars = vae_loss(output, image, foreground, config)
        return loss + config.kl * kl, scalars

    return step


@torch.no_grad()
def encode_means(
    vae: AutoencoderKL, renders: Renders, device: torch.device, batch: int = 64, bf16: bool = False, *, seed: int = 0,
    group: int = 1,
) -> Float[Tensor, "n c h w"]:  # fmt: skip
    """Posterior means of all renders, fp16, on the CPU.

    Cut-outs lie on backgrounds that depend on (seed, start of the batch), the same for all items of a group: what
    differs between their latents must come from the view.
    """
    batch = -(-batch // group) * group
    latents = []
    for start in tqdm(range(0, len(renders), batch), desc="encode", unit="batch"):
        index = torch.arange(start, min(start + batch, len(renders)))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
        image = renders.pictures(index, generator, (index - start) // group * group).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            mean = vae.encode(image).latent_dist.mean
        latents.append(mean.to("cpu", torch.float16))
    return torch.cat(latents)


def whitening(latents: Float[Tensor, "n c h w"]) -> tuple[Float[Tensor, "c c"], Float[Tensor, "c"]]:
    """Symmetric (ZCA) matrix W and mean m such that W(z - m) has zero mean and unit covariance over the channels."""
    flat = latents.double().movedim(1, -1).reshape(-1, latents.shape[1])
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(flat.T))
    return vectors @ torch.diag(values.clamp_min(1e-6).rsqrt()) @ vectors.T, mean


@torch.no_grad()
def fold_whitening(vae: AutoencoderKL, matrix: Float[Tensor, "c c"], mean: Float[Tensor, "c"]) -> None:
    """Put z -> W(z - m) into ``quant_conv`` and its inverse into ``post_quant_conv``; images stay what they were.

    Afterwards ``scaling_factor`` 1 is right for every code that follows the Stable-Diffusion convention. The
    posterior's log-variance is shifted by the mean gain of W, exact for a scalar W.
    """
    quant, post = vae.quant_conv, vae.post_quant_conv
    matrix, mean = matrix.to(quant.weight.device), mean.to(quant.weight.device)
    channels = len(mean)
    weight, bias = quant.weight.double().flatten(1), quant.bias.double()
    gain = torch.linalg.slogdet(matrix)[1] * 2.0 / channels
    new_weight = torch.cat([matrix @ weight[:channels], weight[channels:]])
    new_bias = torch.cat([matrix @ (bias[:channels] - mean), bias[channels:] + gain])
    quant.weight.copy_(new_weight.reshape_as(quant.weight))
    quant.bias.copy_(new_bias)
    inverse = torch.linalg.inv(matrix)
    post_weight, post_bias = post.weight.double().flatten(1), post.bias.double()
    post.bias.copy_(post_bias + post_weight @ mean)
    post.weight.copy_((post_weight @ inverse).reshape_as(post.weight))
