"""Configurations of the two trainers: every key, what it means, what it may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..core import Schedule
from ..core.errors import choose
from ..core.ranges import TRAINER, check, choice, either, number, or_null, scheduled, several, whole
from .config_blocks import STUDENTS, BankConfig, EMAConfig, LossScale, NoiseConfig, TextConfig, WarmupConfig
from .data import RANGES as DATA_RANGES
from .data import DataConfig
from .reading import read_config

__all__ = ["PRECISIONS", "BankConfig", "DistillConfig", "EDMConfig", "EMAConfig", "LossScale", "NoiseConfig",
           "RunConfig", "TextConfig", "WarmupConfig", "read_config", "schedule"]  # fmt: skip

# Names of precision and what Lightning calls them: master weights are float32 in all of them.
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
LEARNING_RATE = scheduled(number(least=0), ever_above=0)
_FRACTION, _COUNT, _EVERY = scheduled(number(least=0, most=1)), whole(least=1), whole(least=0)
_NOISE = {"min_fraction": _FRACTION, "max_fraction": _FRACTION, "p_mean": number(), "p_std": number(above=0)}

# What the numbers of both trainers may be, see core/ranges.py. The method's own are in core/methods.py.
RANGES = {
    "seed": whole(least=0),
    "steps": _COUNT,
    "batch": _COUNT,
    "micro_batch": or_null(_COUNT),
    "lr": LEARNING_RATE,
    "fake_lr": or_null(LEARNING_RATE),
    "betas": several(number(least=0, below=1), 2),
    "eps": number(least=0),
    "clip_grad": or_null(number(above=0)),
    "dropout": number(least=0, below=1),
    "save_every": _EVERY,
    "sample_every": _EVERY,
    "log_every": _EVERY,
    "grid": _COUNT,
    "init_sigma": number(above=0),
    "data": DATA_RANGES,
    "ema": {"halflife_kimg": number(above=0), "rampup": number(least=0)},
    "student_noise": _NOISE,
    "fake_noise": _NOISE,
    "noise": _NOISE,
    "loss_scale": {"*": either(choice(True, False), number(least=0))},
    "warmup": {"*": _EVERY},
    "calibrate_every": _EVERY,
    "bank": {"count": _COUNT, "steps": whole(least=2), "batch": _COUNT, "guidance_scale": number(least=0)},
    "text": {"t_init": whole(least=0), "rank": _COUNT, "alpha": number(above=0), "width": _COUNT},
    "trainer": TRAINER,
}
REAL_SOURCES = {"data": "images of the data set", "teacher": "samples of the teacher's ODE, kept on disk"}


@dataclass
class RunConfig:
    """What every training run has.

    Args:
        out: folder for checkpoints, logs, grids and the finished network; null writes nothing.
        seed: of everything drawn; runs are functions of (seed, step, global sample index).
        steps: optimiser steps (distillation: of the student).
        batch: images of one update over all processes.
        micro_batch: images that one process handles at once; gradients are accumulated over them. Null: all.
        lr: Adam's learning rate, a number or a schedule over steps such as [0, 1e-3, 1e-5, 1000].
        betas, eps: of Adam.
        clip_grad: greatest gradient norm of one update; null does not clip.
        dropout: in the networks that train.
        precision: fp32 | bf16 | fp16; weights stay float32.
        compile: run the networks through torch.compile.
        save_every, sample_every, log_every: steps between checkpoints, sample grids and log lines; 0 never.
        grid: images in a sample grid.
        resume: go on where `out` was left; false begins anew.
        data: block of `DataConfig`. ema: block of `EMAConfig`.
        trainer: arguments for Lightning's Trainer: accelerator, devices, num_nodes, strategy, …
    """

    out: str | None = None
    seed: int = 0
    steps: int = 1000
    batch: int = 256
    micro_batch: int | None = None
    lr: Any = 1e-5
    betas: tuple[float, float] = (0.0, 0.999)
    eps: float = 1e-8
    clip_grad: float | None = None
    dropout: float = 0.0
    precision: str = "fp32"
    compile: bool = False
    save_every: int = 500
    sample_every: int = 500
    log_every: int = 20
    grid: int = 100
    resume: bool = True
    data: DataConfig = field(default_factory=DataConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)
    trainer: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse values that cannot work, by name."""
        choose("precision", self.precision, PRECISIONS)
        check(RANGES, self)


@dataclass
class DistillConfig(RunConfig):
    """One-step distillation.

    Args:
        teacher: safetensors file of an EDM network, or a Stable-Diffusion-format folder or hub id.
        preset: architecture of an EDM network, if the file does not say.
        start: student to begin with instead of the teacher: student.safetensors or last.ckpt of another run (this one
            brings its fake score along).
        method: a row of the core's methods table by name, or {name: …, option: …} with options of the row changed.
        real: images that the discriminator calls real: data | teacher.
        text: block of `TextConfig`, for a Stable-Diffusion-format teacher.
        init_sigma: of an EDM student: g(z) = D(init_sigma · z; init_sigma).
        fake_lr: learning rate of fake score and discriminator, number or schedule; null: `lr`.
        student_noise, fake_noise: blocks of `NoiseConfig`, for the objective, and for fake score and discriminator.
        calibrate_every: steps between measurements of the critic's calibration slope on samples it has not seen
            (`critic/slope` in the log), where a ratio is read; 0 never.
        loss_scale, warmup, bank: blocks of `LossScale`, `WarmupConfig`, `BankConfig`.
    """

    teacher: str | None = None
    preset: str | None = None
    start: str | None = None
    method: Any = "uni_instruct"
    real: str = "data"
    init_sigma: float = 2.5
    fake_lr: Any = None
    student_noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(min_fraction=0.02, max_fraction=0.8))
    fake_noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(sampler="log_normal"))
    calibrate_every: int = 100
    loss_scale: LossScale = field(default_factory=LossScale)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    text: TextConfig = field(default_factory=TextConfig)

    def check(self) -> None:
        super().check()
        choose("real", self.real, REAL_SOURCES)
        choose("text.student", self.text.student, STUDENTS)
        for block in ("student_noise", "fake_noise"):
            _named(block, getattr(self, block).build)


@dataclass
class EDMConfig(RunConfig):
    """Training of an EDM network on the data, which then serves as a teacher.

    Args:
        network: name of a preset, or its arguments (see teachers/edm/presets.py); the data must fit it.
        noise: block of `NoiseConfig`.
    """

    network: Any = "digits-cond"
    noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(sampler="log_normal"))
    betas: tuple[float, float] = (0.9, 0.999)

    def check(self) -> None:
        super().check()
        _named("noise", self.noise.build)


def schedule(name: str, value: Any) -> Schedule:
    """A learning rate, a number or a schedule; errors name the key."""
    LEARNING_RATE.check(name, value)
    return _named(name, lambda: Schedule.parse(value))


def _named(name: str, build):
    try:
        return build()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
