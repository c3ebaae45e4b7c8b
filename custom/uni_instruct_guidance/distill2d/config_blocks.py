"""Blocks of the trainers' configurations: average, noise levels, loss factors, warm-up, bank, text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..core import TimeSampler


@dataclass
class EMAConfig:
    """Moving average of the weights that are shipped.

    Args:
        halflife_kimg: thousands of images after which an old weight counts half.
        rampup: the half-life is at most this share of the images seen so far, so that an early start is forgotten.
    """

    halflife_kimg: float = 500.0
    rampup: float = 0.05


@dataclass
class NoiseConfig:
    """Which noise levels σ a loss visits, between two fractions of EDM's ρ = 7 schedule from 0.002 to 80.

    Args:
        sampler: row of the core's samplers: edm_rho (σ^(1/ρ) uniform) | log_normal | uniform_log_snr | uniform_t.
        min_fraction, max_fraction: in [0, 1], 1 is σ = 80; numbers or schedules over steps.
        p_mean, p_std: of log σ (log_normal).
    """

    sampler: str = "edm_rho"
    min_fraction: Any = 0.0
    max_fraction: Any = 1.0
    p_mean: float = -1.2
    p_std: float = 1.2

    def build(self) -> TimeSampler:
        """The sampler; a wrong value is refused by name."""
        return TimeSampler(self.sampler, self.min_fraction, self.max_fraction, p_mean=self.p_mean, p_std=self.p_std)


@dataclass
class LossScale:
    """Factors of the losses; auxiliary terms of the method carry their own weights.

    Args:
        student: of the method's objective (0: only the auxiliary terms train the student, e.g. the GAN).
        per_pixel: the objective is averaged over the pixels (DMD's family); otherwise it is their sum (SiD's).
        fake_score: of the fake score's denoising loss.
        discriminator: of the cross-entropy.
    """

    student: float = 100.0
    per_pixel: bool = False
    fake_score: float = 1.0
    discriminator: float = 1.0


@dataclass
class WarmupConfig:
    """What waits at the start.

    Args:
        student: steps in which only fake score and discriminator learn.
        ratio, ramp: steps with r ≡ 1 and without adversarial term, then steps over which both grow to full size. With
            r ≡ 1 the forms that need a calibrated ratio (exact, paper) are reverse KL.
    """

    student: int = 0
    ratio: int = 0
    ramp: int = 0


@dataclass
class BankConfig:
    """Samples of the teacher's ODE, for `real: teacher` and for DMD's regression.

    Args:
        count: pairs of noise and image. steps: noise levels of Heun's method (18: 35 evaluations).
        batch: pairs made at once; also the size of one file.
        guidance_scale: classifier-free guidance of a text-to-image teacher.
        path: folder that keeps them; null: `bank` in `out`.
    """

    count: int = 2048
    steps: int = 18
    batch: int = 512
    guidance_scale: float = 1.0
    path: str | None = None


STUDENTS = {"full": "a copy of the teacher's U-Net", "lora": "low-rank adapters on it"}


@dataclass
class TextConfig:
    """Text-to-image: the teacher is a Stable-Diffusion-format folder or hub id.

    Args:
        prompts: text file, one prompt a line; every student sample is asked for one of them.
        negative: text of the unconditional branch.
        t_init: index at which g(z) = x̂0(z; t_init, prompt) enters the teacher's chain.
        student: full | lora; the fake score is what the method's row says (`method.fake_score`).
        rank, alpha, targets: of LoRA: attention, feedforward, conv, time.
        features, width: encoder blocks that the discriminator's head reads (down.0 …, mid), channels inside it.
        reward: clip | aesthetic | FILE.py:FUNCTION, for methods with a reward. reward_options: of it.
    """

    prompts: str | None = None
    negative: str = ""
    t_init: int = 625
    student: str = "full"
    rank: int = 64
    alpha: float = 64.0
    targets: list[str] = field(default_factory=lambda: ["attention", "conv", "time"])
    features: list[str] = field(default_factory=lambda: ["mid"])
    width: int = 64
    reward: str | None = None
    reward_options: dict[str, Any] = field(default_factory=dict)
