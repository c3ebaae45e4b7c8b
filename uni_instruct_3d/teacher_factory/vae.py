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
        latent_channels=4,
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


def vae_step(vae: AutoencoderKL, renders: Renders, config: VaeConfig, device: torch.device, bf16: bool):
    """The step function of the VAE's training: random renders, posterior sample plus a little noise, decode."""
    images, masks = torch.from_numpy(renders.image), torch.from_numpy(renders.foreground)

    def step(generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        index = torch.randint(len(images), (config.optim.batch,), generator=generator)
        image = images[index].permute(0, 3, 1, 2).to(device).float().div(127.5).sub(1.0)
        foreground = (masks[index] > 0).to(device).float()[:, None]
        shape = (config.optim.batch, 4, image.shape[2] // 2 ** (len(config.channels) - 1),
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
    vae: AutoencoderKL, renders: Renders, device: torch.device, batch: int = 128, bf16: bool = False
) -> Float[Tensor, "n 4 h w"]:
    """Posterior means of all renders, fp16, on the CPU."""
    latents = []
    for start in tqdm(range(0, len(renders), batch), desc="encode", unit="batch"):
        image = torch.from_numpy(renders.image[start : start + batch]).permute(0, 3, 1, 2).to(device).float()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            mean = vae.encode(image / 127.5 - 1.0).latent_dist.mean
        latents.append(mean.to("cpu", torch.float16))
    return torch.cat(latents)


def whitening(latents: Float[Tensor, "n 4 h w"]) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "4"]]:
    """Symmetric (ZCA) matrix W and mean m such that W(z - m) has zero mean and unit covariance over the channels."""
    flat = latents.double().movedim(1, -1).reshape(-1, latents.shape[1])
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(flat.T))
    return vectors @ torch.diag(values.clamp_min(1e-6).rsqrt()) @ vectors.T, mean


@torch.no_grad()
def fold_whitening(vae: AutoencoderKL, matrix: Float[Tensor, "4 4"], mean: Float[Tensor, "4"]) -> None:
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
