"""A frozen Stable-Diffusion-format model, from a diffusers folder or a hub id, behind the contract of all teachers."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...core.errors import choose
from ...core.process import PARAMETERISATIONS, DiscreteVP, to_x0
from ..contract import Condition, DiffusionTeacher
from ..fingerprint import of_files
from ..sampling import solve_discrete
from .checks import TEACHER_PARTS, check_teacher, local_folder
from .multi_view import CAMERAS, attend, read_mark, require_cameras, require_groups


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
class Teacher(DiffusionTeacher):
    """VAE, U-Net and noise process of a latent diffusion model, frozen; conditions are texts [B, L, D].

    n_views: rows that are drawn together, camera: what they are told of theirs, see multi_view.py. views: cameras of a
    call that names none.

    Not an nn.Module, so that its weights stay out of every state_dict.
    """

    guidable = True

    name: str
    vae: nn.Module
    unet: nn.Module
    process: DiscreteVP
    prediction_type: str
    scheduler_config: dict
    device: torch.device
    dtype: torch.dtype
    cache_dir: str | None = None
    n_views: int = 1
    camera: str = "c2w"
    views: Tensor | None = None

    @property
    def denoising(self) -> dict:
        """Fake scores of these teachers learn by the plain ε-MSE."""
        return {"weighting": "epsilon"}

    @property
    def shape(self) -> tuple[int, int, int]:
        return (int(self.unet.config.in_channels), self.latent_size, self.latent_size)

    def fingerprint(self) -> str:
        """Of every file of the model: U-Net, VAE, text encoder, tokenizer and scheduler."""
        folder = local_folder(self.name, self.cache_dir)
        files = [file for part in TEACHER_PARTS for file in sorted((folder / part).iterdir()) if file.is_file()]
        return of_files(files, folder)

    def to(self, device: torch.device) -> Teacher:
        for module in (self.unet, self.vae, self.process):
            module.to(device)
        self.device = torch.device(device)
        return self

    def compile_parts(self) -> None:
        self.unet.compile()

    def learner(self, kind: str = "full", **options) -> nn.Module:
        """A `FakeScore`: a trainable copy of the U-Net, or LoRA on it (`rank, alpha, targets`)."""
        from .fake_score import FakeScore, FakeScoreConfig

        return FakeScore(self, kind, FakeScoreConfig(camera_condition="none", **options))

    def solve(
        self,
        noise: Float[Tensor, "B C h w"],
        condition: Condition,
        null: Condition,
        scale: float,
        steps: int,
        solver: str = "dpm++",
    ) -> Float[Tensor, "B C h w"]:
        """The end of the probability-flow ODE, by a row of `sampling.SOLVERS`."""

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return self.guided(x_t, t, condition, null, scale)

        return solve_discrete(self.scheduler_config, predict, noise, steps=steps, solver=solver)

    @classmethod
    def load(
        cls,
        name_or_path: str,
        device: torch.device,
        half_precision: bool = True,
        cache_dir: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Teacher:
        """Check, load and freeze. Only the parts that score distillation needs: no text encoder, no safety checker.

        `dtype` of the weights overrides what `half_precision` picks for the device.

        Raises:
            FileNotFoundError, ValueError: from `check_teacher`, or an unsupported prediction type.
        """
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

        name = check_teacher(name_or_path, cache_dir)
        dtype = dtype or pick_dtype(half_precision, device)
        load = {"cache_dir": cache_dir, "use_safetensors": True, "torch_dtype": dtype}
        unet = UNet2DConditionModel.from_pretrained(name, subfolder="unet", **load)
        vae = AutoencoderKL.from_pretrained(name, subfolder="vae", **load)
        scheduler = DDIMScheduler.from_pretrained(name, subfolder="scheduler", cache_dir=cache_dir)
        kind = scheduler.config.prediction_type
        choose(f"prediction_type of teacher {name!r}", kind, PARAMETERISATIONS)
        for module in (unet, vae):
            module.to(device).eval().requires_grad_(False)
        mark = read_mark(local_folder(name, cache_dir) / "unet")
        attend(unet, mark.n_views)
        process = DiscreteVP.from_scheduler(scheduler).to(device)
        return cls(name, vae, unet, process, kind, dict(scheduler.config), device, dtype, cache_dir, *mark)

    @property
    def latent_size(self) -> int:
        """Side of the latents the U-Net was trained on."""
        return int(self.unet.config.sample_size)

    @property
    def image_size(self) -> int:
        """Side of the images, in pixels, that encode to `latent_size`."""
        return self.latent_size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    def told(self, cameras: dict) -> Float[Tensor, "B 16"]:
        """What a multi-view teacher is told of a batch's cameras: `c2w` [B, 4, 4] and, for some, `fovy` [B] radians."""
        return CAMERAS[self.camera](cameras)

    def seen_from(self, views: Float[Tensor, "n 16"]) -> Teacher:
        """The same multi-view teacher, for code that knows of no cameras: its groups stand at these."""
        return replace(self, views=views)

    @property
    def view_width(self) -> int | None:
        """Width of what the U-Net is told of each row's camera; None where it is told nothing."""
        return self.unet.config.projection_class_embeddings_input_dim if self.n_views > 1 else None

    @property
    def text_width(self) -> int:
        return int(self.unet.config.cross_attention_dim)

    def encode(
        self, rgb: Float[Tensor, "B 3 H W"], generator: torch.Generator | None = None, size: int | None = None
    ) -> Float[Tensor, "B C h w"]:
        """Images in 0..1 to scaled latents (float32), resized to `size` (the teacher's) first; differentiable."""
        rgb = resized(rgb, size or self.image_size)
        posterior = self.vae.encode((rgb * 2 - 1).to(self.dtype)).latent_dist
        return (posterior.sample(generator) * self.vae.config.scaling_factor).float()

    def draw(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Scaled latents to images."""
        image = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.dtype)).sample.float()
        return image * 0.5 + 0.5

    def predict_x0(
        self,
        x_t: Float[Tensor, "B C h w"],
        t: Int[Tensor, "B"],
        text: Float[Tensor, "B L D"],
        unet: nn.Module | None = None,
        class_labels: Tensor | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """One network call, any parameterisation, to x0 in float32. `unet` stands in for the teacher's own (fakes).

        class_labels: cameras of the rows, for multi-view teachers.
        """
        if self.n_views > 1:
            require_groups(len(x_t), self.n_views)
            if class_labels is None and self.views is not None:
                class_labels = self.views.repeat(len(x_t) // len(self.views), 1)
            require_cameras(class_labels, self.name)
            class_labels = class_labels.to(self.dtype)
        output = (unet or self.unet)(
            x_t.to(self.dtype), t, encoder_hidden_states=text.to(self.dtype), class_labels=class_labels
        ).sample.float()
        return self.to_x0(output, x_t, t)

    def to_x0(
        self, output: Float[Tensor, "B C h w"], x_t: Float[Tensor, "B C h w"], t: Int[Tensor, "B"]
    ) -> Float[Tensor, "B C h w"]:
        """A U-Net output of this teacher's parameterisation as x0."""
        return to_x0(output, x_t.float(), *self.process.alpha_sigma(t), self.prediction_type)


def resized(image: Float[Tensor, "B C H W"], side: int) -> Float[Tensor, "B C s s"]:
    """Bilinear resizing to a square; the very same picture if it has that size."""
    if image.shape[-2:] == (side, side):
        return image
    return F.interpolate(image, (side, side), mode="bilinear", align_corners=False)
