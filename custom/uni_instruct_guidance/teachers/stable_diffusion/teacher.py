"""The frozen 2D teacher: any diffusers Stable-Diffusion-format folder or hub id, behind one x0 contract."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...core.errors import choose
from ...core.process import PARAMETERISATIONS, DiscreteVP, to_x0
from ...core.scale import classifier_free
from .checks import check_teacher


def pick_dtype(half_precision: bool, device: torch.device) -> torch.dtype:
    """Weights dtype: fp16 on CUDA and MPS, bf16 on CPUs that multiply in it, otherwise fp32."""
    if not half_precision:
        return torch.float32
    if device.type in ("cuda", "mps"):
        return torch.float16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def unshared_skeleton(module: nn.Module) -> nn.Module:
    """A second module tree over the very same parameters and buffers: layers can be added to it, memory is not."""
    shared = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, memo=shared)


@dataclass
class Teacher:
    """VAE, U-Net and noise process of a latent diffusion model, frozen.

    Not an nn.Module, so that its weights stay out of every state_dict.
    """

    name: str
    vae: nn.Module
    unet: nn.Module
    process: DiscreteVP
    prediction_type: str
    scheduler_config: dict
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def load(cls, name_or_path: str, device: torch.device, half_precision: bool = True, cache_dir: str | None = None):
        """Check, load and freeze. Only the parts that score distillation needs: no text encoder, no safety checker.

        Raises:
            FileNotFoundError, ValueError: from `check_teacher`, or an unsupported prediction type.
        """
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

        name = check_teacher(name_or_path, cache_dir)
        dtype = pick_dtype(half_precision, device)
        load = {"cache_dir": cache_dir, "use_safetensors": True, "torch_dtype": dtype}
        unet = UNet2DConditionModel.from_pretrained(name, subfolder="unet", **load)
        vae = AutoencoderKL.from_pretrained(name, subfolder="vae", **load)
        scheduler = DDIMScheduler.from_pretrained(name, subfolder="scheduler", cache_dir=cache_dir)
        kind = scheduler.config.prediction_type
        choose(f"prediction_type of teacher {name!r}", kind, PARAMETERISATIONS)
        for module in (unet, vae):
            module.to(device).eval().requires_grad_(False)
        if device.type == "cpu":
            use_plain_attention(unet)
        process = DiscreteVP.from_scheduler(scheduler).to(device)
        return cls(name, vae, unet, process, kind, dict(scheduler.config), device, dtype)

    @property
    def latent_size(self) -> int:
        """Side of the latents the U-Net was trained on."""
        return int(self.unet.config.sample_size)

    @property
    def image_size(self) -> int:
        """Side of the images, in pixels, that encode to `latent_size`."""
        return self.latent_size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def text_width(self) -> int:
        return int(self.unet.config.cross_attention_dim)

    def encode(
        self, rgb: Float[Tensor, "B 3 H W"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B C h w"]:
        """Images in 0..1 to scaled latents (float32), resized to the teacher's size first; differentiable."""
        if rgb.shape[-2:] != (self.image_size, self.image_size):
            rgb = F.interpolate(rgb, (self.image_size, self.image_size), mode="bilinear", align_corners=False)
        posterior = self.vae.encode((rgb * 2 - 1).to(self.dtype)).latent_dist
        return (posterior.sample(generator) * self.vae.config.scaling_factor).float()

    def decode(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Scaled latents to images in 0..1."""
        image = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.dtype)).sample.float()
        return (image * 0.5 + 0.5).clamp(0, 1)

    def predict_x0(
        self,
        x_t: Float[Tensor, "B C h w"],
        t: Int[Tensor, "B"],
        text: Float[Tensor, "B L D"],
        unet: nn.Module | None = None,
        class_labels: Tensor | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """One network call, any parameterisation, to x0 in float32. `unet` stands in for the teacher's own (fakes)."""
        output = (unet or self.unet)(
            x_t.to(self.dtype), t, encoder_hidden_states=text.to(self.dtype), class_labels=class_labels
        ).sample.float()
        return self.to_x0(output, x_t, t)

    def to_x0(
        self, output: Float[Tensor, "B C h w"], x_t: Float[Tensor, "B C h w"], t: Int[Tensor, "B"]
    ) -> Float[Tensor, "B C h w"]:
        """A U-Net output of this teacher's parameterisation as x0."""
        return to_x0(output, x_t.float(), *self.process.alpha_sigma(t), self.prediction_type)

    def predict_x0_guided(
        self,
        x_t: Float[Tensor, "B C h w"],
        t: Int[Tensor, "B"],
        text: Float[Tensor, "2*B L D"],
        scale: float,
    ) -> Float[Tensor, "B C h w"]:
        """x0 under classifier-free guidance; `text` holds the conditional half first (threestudio's order)."""
        if scale == 1.0:
            return self.predict_x0(x_t, t, text.chunk(2)[0])
        cond, uncond = self.predict_x0(torch.cat([x_t] * 2), torch.cat([t] * 2), text).chunk(2)
        return classifier_free(cond, uncond, scale)


def use_plain_attention(unet: nn.Module) -> None:
    """On CPUs the backward pass of fused attention costs a third of a step; the plain product does not."""
    from diffusers.models.attention_processor import AttnProcessor

    unet.set_attn_processor(AttnProcessor())
