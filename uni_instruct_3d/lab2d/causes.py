"""Why exact and printed forms diverge where the gradient by parts does not: the ratio, one fault at a time.

Everything but the fault is known in closed form: a Gaussian student against one mode (`flow`), and the untrained
generator, a unit Gaussian, against a mixture (`critic_at_the_start`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from uni_instruct_guidance.core import TimeSampler, VarianceExploding, calibration, get_method, objective

from .targets import TARGETS, Mixture
from .training import LabConfig, Trainer

FORMS = ("exact", "paper", "by_parts")
CLAMPS = (10.0, None)
STARTS = (2.5, 3.0)
FACTORS = (1.0, 0.7, 0.4, 0.1)
PRETRAIN = (100, 1000)
# κ of each form: the exact gradient has its path term, the printed one does without.
KAPPA = {"exact": 1.0, "paper": 0.0, "by_parts": 0.0}


def flow(
    divergence: str,
    gradient: str,
    factor: float = 1.0,
    clamp: float | str | None = "auto",
    steps: int = 300,
    start: float = 4.0,
    seed: int = 0,
) -> float:
    """How far a Gaussian student is from its one-mode teacher at the end; it starts `start` away, stds 0.5 both.

    Scores are the true ones, log r is the true one times `factor`, cut at `clamp`. A student that has diverged is
    further away than it started.
    """
    torch.manual_seed(seed)
    teacher = Mixture("one", torch.zeros(1, 2), 0.5)
    mean, log_std = torch.tensor([[start, 0.0]]).requires_grad_(), torch.tensor(0.5).log().requires_grad_()
    optimiser = torch.optim.Adam([mean, log_std], lr=0.05, betas=(0.5, 0.99))
    process, sampler = VarianceExploding(0.08, 1.5), TimeSampler("uniform_log_snr", 0.0, 1.0)
    options = {"kappa": KAPPA[gradient], "weighting": "epsilon", "log_r_clamp": clamp}
    config = get_method("uni_instruct", divergence=divergence, gradient=gradient, **options).objective
    for _ in range(steps):
        drawn = sampler.sample(process, 256, boundary=config.boundary_share)
        x0 = mean + log_std.exp() * torch.randn(256, 2)
        x_t = x0 + drawn.sigma[:, None] * torch.randn(256, 2)
        student = Mixture("student", mean.detach(), float(log_std.detach().exp()))
        given = (x_t, drawn.alpha, drawn.sigma)
        log_r = (teacher.log_density(*given) - student.log_density(*given)).detach() * factor
        out = objective(
            config, x0=x0, x0_teacher=teacher.denoise(*given), x0_fake=student.denoise(*given), alpha=drawn.alpha,
            sigma=drawn.sigma, log_r=log_r, log_snr_density=drawn.log_snr_density, slopes=drawn.slopes,
        )  # fmt: skip
        optimiser.zero_grad()
        out.loss.mean().backward()
        torch.nn.utils.clip_grad_norm_([mean, log_std], 1.0)
        optimiser.step()
    return float(mean.detach().norm())


@dataclass(frozen=True)
class CriticReport:
    """A gradient with a learned critic beside the same with everything known, before the generator moves.

    Attributes:
        slope: of the learned log r on the true one, by least squares over held-out samples.
        gradient_slope: of its gradient on the true score gap (`critic_slope`), the one that training can measure.
        cosine, size: of the generator's gradient with the learned log r and the true scores, against the true gradient.
        cosine_scores, size_scores: the same with the true log r and the learned fake score.
    """

    slope: float
    gradient_slope: float
    cosine: float
    size: float
    cosine_scores: float
    size_scores: float


def critic_at_the_start(
    divergence: str, gradient: str, pretrain: int, target: str = "grid25", count: int = 8192, seed: int = 0
) -> CriticReport:
    """The critic after `pretrain` updates with the generator at rest, where p is a diffused unit Gaussian."""
    method = get_method("uni_instruct", divergence=divergence, gradient=gradient, kappa=KAPPA[gradient],
                        weighting="epsilon")  # fmt: skip
    trainer = Trainer([method], TARGETS[target](), LabConfig(pretrain=pretrain), seed)
    trainer.train_critic(pretrain)
    trainer.critic.requires_grad_(False)
    gradient_slope = trainer.critic_slopes()[0]
    trainer.config = replace(trainer.config, batch=count)
    z, eps, drawn = trainer._noise(trainer.boundary)
    student, levels = Mixture("student", torch.zeros(1, 2), 1.0), (drawn.alpha, drawn.sigma)
    with torch.no_grad():
        real_t = trainer.target.sample(count) + drawn.sigma[:, None] * torch.randn(count, 2)
        both = torch.cat([real_t, trainer.generator(z)[0] + drawn.sigma[:, None] * eps[0]])
        twice = tuple(level.repeat(2) for level in levels)
        true = trainer.target.log_density(both, *twice) - student.log_density(both, *twice)
        learned = trainer.critic.logit(both[None], *(level[None] for level in twice))[0]

    def gradient_of(true_ratio: bool, true_scores: bool) -> Tensor:
        trainer.generator.zero_grad()
        x0 = trainer.generator(z)[0]
        x_t = x0 + drawn.sigma[:, None] * eps[0]
        fake = student.denoise(x_t, *levels)
        if not true_scores:
            fake = trainer.critic.denoise(x_t[None], *(level[None] for level in levels))[0]
        out = objective(
            method.objective, x0=x0, x0_teacher=trainer.target.denoise(x_t, *levels), x0_fake=fake, alpha=drawn.alpha,
            sigma=drawn.sigma, log_r=(true if true_ratio else learned)[count:], log_snr_density=drawn.log_snr_density,
            slopes=drawn.slopes,
        )  # fmt: skip
        out.loss.mean().backward()
        return torch.cat([p.grad.flatten() for p in trainer.generator.parameters()])

    truth = gradient_of(True, True)
    compared = []
    for found in (gradient_of(False, True), gradient_of(True, False)):
        compared += [float(torch.cosine_similarity(found, truth, 0)), float(found.norm() / truth.norm())]
    return CriticReport(calibration(learned, true).slope, gradient_slope, *compared)


def causes_tables(say=lambda line: None) -> str:
    """The three measurements as Markdown tables; `say` gets each line when it is known."""
    lines: list[str] = []

    def add(line: str) -> None:
        lines.append(line)
        say(line)

    add("| form (js) | critic updates | slope of log r | of ∇log r | learned r: cos | size | true r: cos | size |")
    add("|---|---|---|---|---|---|---|---|")
    for pretrain in PRETRAIN:
        for form in FORMS:
            r = critic_at_the_start("js", form, pretrain)
            figures = (r.slope, r.gradient_slope, r.cosine, r.size, r.cosine_scores, r.size_scores)
            add(f"| {form} | {pretrain} | " + " | ".join(f"{x:.2f}" for x in figures) + " |")
    add("")
    cells = [(start, clamp) for start in STARTS for clamp in CLAMPS]
    add(
        "| form (hellinger), distance at the end | "
        + " | ".join(f"from {s}, log r cut at {c}" for s, c in cells)
        + " |"
    )
    add("|---|" + "---|" * len(cells))
    for form in FORMS:
        found = (flow("hellinger", form, clamp=clamp, start=start, steps=200) for start, clamp in cells)
        add(f"| {form} | " + " | ".join(f"{distance:.1f}" for distance in found) + " |")
    add("")
    add("| form (js), distance at the end | " + " | ".join(f"log r × {factor}" for factor in FACTORS) + " |")
    add("|---|" + "---|" * len(FACTORS))
    for form in FORMS:
        found = (flow("js", form, factor=factor, clamp=None, start=2.0, steps=200) for factor in FACTORS)
        add(f"| {form} | " + " | ".join(f"{distance:.2f}" for distance in found) + " |")
    return "\n".join(lines) + "\n"
