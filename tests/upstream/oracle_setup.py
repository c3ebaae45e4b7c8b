"""What both sides of the comparison with upstream's guidances are given: weights, prompts, noise, all by formula.

Nothing here depends on a random generator or on the order in which a library makes its layers.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import torch

BATCH, SIDE, WIDTH, LENGTH, RANK = 2, 64, 16, 8, 4
#: what upstream draws at random, fixed: noise levels of the gradient and of LoRA's loss.
T_GRAD, T_LORA = [741, 163], [512, 37]


def pattern(name: str, *shape: int, scale: float = 1.0) -> torch.Tensor:
    """Numbers that look random, uniform in ±scale √3 (so their RMS is ``scale``), the same everywhere."""
    count = math.prod(shape)
    phase = zlib.crc32(name.encode()) % 10_000
    x = torch.sin(torch.arange(1, count + 1, dtype=torch.float64) * 12.9898 + phase) * 43758.5453
    return ((x - x.floor()) * 2 - 1).mul(scale * math.sqrt(3)).float().reshape(shape)


def fill(module: torch.nn.Module, prefix: str) -> None:
    """Every parameter by its name: matrices keep the size of signals, norms are near one."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            shape = parameter.shape
            if parameter.ndim > 1:
                value = pattern(prefix + name, *shape, scale=1 / math.sqrt(math.prod(shape[1:])))
            else:
                value = pattern(prefix + name, *shape, scale=0.1) + (1.0 if "norm" in name and "weight" in name else 0)
            parameter.copy_(value)


def make_teacher(folder: Path, prediction_type: str) -> Path:
    """A tiny Stable-Diffusion-format folder: 64x64x4 latents, autoencoder of factor 8, text width 16."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNet2DConditionModel(
        sample_size=SIDE, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=2,
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[4, 4, 4, 4], layers_per_block=1, norm_num_groups=4, sample_size=8 * SIDE,
    )  # fmt: skip
    fill(unet, "unet.")
    fill(vae, "vae.")
    text = CLIPTextModel(
        CLIPTextConfig(vocab_size=8, hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1,
                       num_attention_heads=1, max_position_embeddings=LENGTH)
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1,
        set_alpha_to_one=False, prediction_type=prediction_type,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=text, tokenizer=None, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(str(folder), safe_serialization=True)
    (folder / "tokenizer").mkdir(exist_ok=True)  # a part that folders have; nobody tokenizes here
    return folder


class Prompts:
    """threestudio's prompt output with embeddings by formula; with or without perpendicular negative prompts."""

    def __init__(self, use_perp_neg: bool = False) -> None:
        self.use_perp_neg = use_perp_neg
        self.prompt = "a red mug"

    def get_text_embeddings(self, elevation, azimuth, camera_distances, view_dependent_prompting=True):
        kind = "view" if view_dependent_prompting else "plain"
        rows = [pattern(f"{kind} {i}", 1, LENGTH, WIDTH) for i in range(len(elevation))]
        if not view_dependent_prompting:
            rows = rows[:1] * len(elevation)
        return torch.cat([*rows, *[pattern("empty", 1, LENGTH, WIDTH)] * len(elevation)])

    def get_text_embeddings_perp_neg(self, elevation, azimuth, camera_distances, view_dependent_prompting=True):
        both = self.get_text_embeddings(elevation, azimuth, camera_distances)
        negatives = pattern("negatives", 2 * len(elevation), LENGTH, WIDTH)
        weights = -pattern("weights", len(elevation), 2, scale=0.4).abs()
        return torch.cat([both, negatives]), weights


def cameras(batch: int) -> dict[str, torch.Tensor]:
    """Cameras by formula; only the matrices matter."""
    return {
        "elevation": torch.full((batch,), 15.0),
        "azimuth": torch.linspace(0, 180, batch),
        "camera_distances": torch.full((batch,), 1.5),
        "c2w": pattern("c2w", batch, 4, 4),
        "mvp_mtx": pattern("mvp", batch, 4, 4),
    }


def lora(name: str, part: str, shape) -> torch.Tensor:
    """Weights of LoRA at one projection: ``name`` of the attention layer, ``part`` to_q.A, to_q.B …"""
    return pattern(f"{name}.{part}", *shape, scale=0.2)


#: case -> (guidance, its configuration, batch, perpendicular negatives, kind of LoRA's model).
CASES = {
    "sds": ("sds", {"guidance_scale": 100.0}, 2, False, None),
    "sds, scale 7.5, uniform": ("sds", {"guidance_scale": 7.5, "weighting_strategy": "uniform"}, 2, False, None),
    "sds, fantasia3d": ("sds", {"guidance_scale": 100.0, "weighting_strategy": "fantasia3d"}, 2, False, None),
    "sds, perp-neg": ("sds", {"guidance_scale": 20.0}, 1, True, None),
    "vsd, epsilon": ("vsd", {"guidance_scale_lora": 1.0}, 2, False, "epsilon"),
    "vsd, epsilon, lora 2": ("vsd", {"guidance_scale_lora": 2.0}, 2, False, "epsilon"),
    "vsd, v": ("vsd", {"guidance_scale_lora": 1.0}, 2, False, "v_prediction"),
    "vsd, v, lora 2": ("vsd", {"guidance_scale_lora": 2.0, "camera_condition_type": "mvp"}, 2, False, "v_prediction"),
    "vsd, perp-neg prompts": ("vsd", {}, 1, True, "epsilon"),
}
COMMON = {"half_precision_weights": False}
STRIDE = 257


def summary(grad: torch.Tensor, losses: dict[str, float]) -> dict:
    """What is kept of a latent gradient: every 257th number and its norm."""
    return {
        "every_257th": [float(f"{x:.9g}") for x in grad.flatten()[::STRIDE].tolist()],
        "norm": float(f"{grad.double().norm().item():.9g}"),
        **{name: float(f"{value:.9g}") for name, value in losses.items()},
    }
