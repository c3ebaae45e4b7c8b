"""Draw latents from a denoiser with a library's fast ODE solver."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from .teacher import Teacher

# name -> diffusers class; all are deterministic given the starting noise.
SOLVERS = {"dpm++": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler", "ddim": "DDIMScheduler"}


def make_solver(teacher: Teacher, name: str):
    """The named solver over the teacher's own noise schedule.

    Raises:
        ValueError: unknown solver, with the choices.
    """
    import diffusers

    if name not in SOLVERS:
        raise ValueError(f"solver {name!r}; choices: {list(SOLVERS)}")
    # Our networks answer in x0, so every parameterisation goes through the same solver call.
    known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    config = {key: teacher.scheduler_config[key] for key in known if key in teacher.scheduler_config}
    return getattr(diffusers, SOLVERS[name])(**config, prediction_type="sample", **SOLVER_OPTIONS[name])


SOLVER_OPTIONS = {
    "dpm++": {"algorithm_type": "dpmsolver++", "timestep_spacing": "trailing"},
    "unipc": {"timestep_spacing": "trailing"},
    "ddim": {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "trailing"},
}


@torch.no_grad()
def sample_latents(
    teacher: Teacher,
    predict_x0: Callable[[Tensor, Tensor], Tensor],
    n: int,
    *,
    steps: int,
    generator: torch.Generator,
    solver: str = "dpm++",
) -> Float[Tensor, "n C h w"]:
    """Latents at the teacher's size. `predict_x0(x_t, t)` answers for the whole batch; `generator` lives on the CPU."""
    scheduler = make_solver(teacher, solver)
    scheduler.set_timesteps(steps)
    shape = (n, int(teacher.unet.config.in_channels), teacher.latent_size, teacher.latent_size)
    x_t = torch.randn(shape, generator=generator).to(teacher.device)
    for step in scheduler.timesteps:
        t = torch.full((n,), int(step), device=teacher.device)
        x_t = scheduler.step(predict_x0(x_t, t), step, x_t).prev_sample
    return x_t
