"""The two commands as Python functions: `distill` an EDM teacher into one step, `train_edm` a teacher.

from uni_instruct_guidance.distill2d.trainer import DistillConfig, distill, read_config

config = read_config(DistillConfig, ["configs/distill2d/digits-cond.yaml"], ["out=null", "method.divergence=fkl"])
result = distill(config, quiet=True)   # result.network(init_sigma * z, init_sigma, labels) is the student
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.errors import UserError, require_writable
from ..core.files import atomically
from ..teachers.bank import TeacherBank
from ..teachers.contract import Conditions, DiffusionTeacher
from ..teachers.edm import EDMPrecond, build_network
from ..teachers.edm.checkpoint import save_edm
from ..teachers.edm.teacher import ClassConditions, EDMTeacher
from ..teachers.fingerprint import of_settings
from ..teachers.randomness import Share, StepRandom
from ..teachers.sampling import HeunSampler, balanced_labels
from .config import DistillConfig, EDMConfig, read_config
from .data import DataConfig, ImageData, load_data
from .distill_module import DistillModule
from .edm_module import EDMModule
from .families import Reward, check_fit, family_of
from .fit import Outputs, Result, check_resume, fit
from .methods import one_step_method

__all__ = ["DataConfig", "DistillConfig", "DistillModule", "EDMConfig", "EDMModule", "Result", "UserError",
           "build_distill_module", "build_edm_module", "distill", "read_config", "train_edm"]  # fmt: skip


# Pictures of a grid drawn at once; ODE steps of the teacher's grid: 20 guided ones for prompts, 18 of Heun for EDM.
GRID_BATCH = 100
TEACHER_STEPS = {True: 20, False: 18}


def distill(
    cfg: DistillConfig,
    *,
    teacher: EDMPrecond | DiffusionTeacher | None = None,
    data: ImageData | None = None,
    start: nn.Module | None = None,
    reward: Reward | Callable[[Tensor], Tensor] | None = None,
    quiet: bool = False,
) -> Result:
    """Distil a teacher into a one-step student.

    Args:
        cfg: configuration. With `out: null` nothing is written.
        teacher, data: used instead of what `cfg` names.
        start: student to begin with, instead of `cfg.start`.
        reward: differentiable [B, C, H, W] ↦ [B], for methods with a reward.
        quiet: no progress bar.
    Returns:
        Result; `network` is the averaged student, g(z) = network(init_sigma z, init_sigma, one-hot labels).
    Raises:
        ValueError: anything the user can mend, in one line.
    """
    cfg.check()
    check_resume(cfg, _folder(cfg))
    module = build_distill_module(cfg, teacher=teacher, data=data, start=start, reward=reward)
    outputs = Outputs(module.family.file, module.family.export, draw_student, {"teacher": draw_teacher})
    return fit(module, outputs, quiet)


def train_edm(cfg: EDMConfig, *, data: ImageData | None = None, quiet: bool = False) -> Result:
    """Train an EDM network on images; arguments and errors as `distill`."""
    cfg.check()
    check_resume(cfg, _folder(cfg))
    outputs = Outputs("network.safetensors", _export, _draw_network)
    return fit(build_edm_module(cfg, data=data), outputs, quiet)


def build_distill_module(
    cfg: DistillConfig,
    *,
    teacher: EDMPrecond | DiffusionTeacher | None = None,
    data: ImageData | None = None,
    start: nn.Module | None = None,
    reward: Reward | Callable[[Tensor], Tensor] | None = None,
) -> DistillModule:
    """The module of `distill`, everything read and checked, nothing trained."""
    family = family_of(cfg, teacher)
    reward = family.reward() if reward is None else reward
    method = one_step_method(cfg.method, reward is not None, family.text)
    if cfg.loss_scale.student == 0 and not any(method.auxiliary.values()):
        raise UserError(f"loss_scale.student=0 leaves method={method.name!r} nothing to learn from: it has no "
                        "auxiliary term; choose a method with one, e.g. uni_instruct (gan)")  # fmt: skip
    if data is None and method.needs_discriminator and cfg.real == "data":
        data = load_data(cfg.data)
    if isinstance(teacher, EDMPrecond):
        teacher = EDMTeacher(teacher)
    teacher = family.teacher() if teacher is None else teacher
    if data is not None:
        family.check_data(data, teacher)
    fake = None
    if start is None and cfg.start:
        start, fake = family.begin(Path(cfg.start), teacher)
    module = DistillModule(cfg, family, teacher, data, start, fake, reward)
    if module.needs_bank:
        folder = cfg.bank.path or (Path(cfg.out or "outputs/distill2d") / "bank")
        require_writable("bank.path", folder)
        identity = [cfg.text.prompts and conditions_identity(module), cfg.text.negative]
        module.bank = TeacherBank(
            teacher, module.conditions, folder, count=cfg.bank.count, batch=cfg.bank.batch, steps=cfg.bank.steps,
            scale=cfg.bank.guidance_scale, seed=cfg.seed, identity=identity,
        )  # fmt: skip
    return module


def conditions_identity(module: DistillModule) -> str:
    """Of the prompts by their text: the file may change under its name."""
    return of_settings(module.conditions.texts(torch.arange(module.conditions.count)))


def build_edm_module(cfg: EDMConfig, *, data: ImageData | None = None) -> EDMModule:
    """The module of `train_edm`."""
    data = load_data(cfg.data) if data is None else data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        network = build_network(cfg.network, dropout=cfg.dropout)
    check_fit(data, network, "network")
    return EDMModule(cfg, data, network)


# --- pictures and files -----------------------------------------------------------------------------------------------


def grid_rows(conditions: Conditions, count: int) -> Tensor:
    """Rows spread evenly over all there are: classes in turn, prompts at equal distances of their list."""
    if conditions.count <= count:
        return balanced_labels(count, max(conditions.count, 1))
    return torch.arange(count) * conditions.count // count


def _grid_inputs(module, shape: tuple[int, int, int], conditions: Conditions) -> tuple[Tensor, Tensor]:
    """The same noise and rows for every grid of a run."""
    count = module.cfg.grid
    z = StepRandom(module.cfg.seed, 0, "grid").normal("z", Share(0, count, count), shape).to(module.device)
    return z, grid_rows(conditions, count)


@torch.no_grad()
def draw_student(module: DistillModule) -> Tensor:
    """One-step pictures of the averaged student, [N, C, H, W] in −1..1."""
    z, rows = _grid_inputs(module, module.teacher.shape, module.conditions)
    pictures = []
    for part, asked in zip(z.split(GRID_BATCH), rows.split(GRID_BATCH)):
        x0 = module.generate(module.ema, part, module.conditions.of(asked, module.device))
        pictures.append(module.teacher.decode(x0) * 2 - 1)
    return torch.cat(pictures)


@torch.no_grad()
def draw_teacher(module: DistillModule) -> Tensor:
    """The teacher's pictures from the same noise along its ODE, guided as the bank is."""
    z, rows = _grid_inputs(module, module.teacher.shape, module.conditions)
    scale, steps = module.cfg.bank.guidance_scale, TEACHER_STEPS[module.family.text]
    pictures = []
    for part, asked in zip(z.split(GRID_BATCH), rows.split(GRID_BATCH)):
        null = module.conditions.null(asked, module.device) if scale != 1.0 else None
        x0 = module.teacher.solve(part, module.conditions.of(asked, module.device), null, scale, steps)
        pictures.append(module.teacher.decode(x0) * 2 - 1)
    return torch.cat(pictures)


def _draw_network(module: EDMModule) -> Tensor:
    network = module.ema
    conditions = ClassConditions(network.label_dim)
    z, rows = _grid_inputs(module, (network.img_channels, network.img_resolution, network.img_resolution), conditions)
    return HeunSampler()(network, z, conditions.of(rows, module.device))


def _export(module: EDMModule, path: Path) -> None:
    atomically(path, lambda partial: save_edm(partial, module.ema, steps=str(module.done_steps)))


def _folder(cfg) -> Path | None:
    return None if cfg.out is None else Path(cfg.out)
