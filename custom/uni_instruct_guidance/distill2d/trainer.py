"""The two commands as Python functions: `distill` an EDM teacher into one step, `train_edm` a teacher.

from uni_instruct_guidance.distill2d.trainer import DistillConfig, distill, read_config

config = read_config(DistillConfig, ["configs/distill2d/digits-cond.yaml"], ["out=null", "method.divergence=fkl"])
result = distill(config, quiet=True)   # result.network(init_sigma * z, init_sigma, labels) is the student
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import UserError, require_writable
from ..teachers.edm import EDMPrecond, build_network
from ..teachers.edm.checkpoint import load_edm, read_header, save_edm
from ..teachers.sampling import HeunSampler, balanced_labels, one_step
from .bank import TeacherBank, one_hot_or_none
from .callbacks import read_checkpoint
from .config import DistillConfig, EDMConfig, read_config
from .data import DataConfig, ImageData, load_data
from .distill_module import DistillModule, Reward
from .edm_module import EDMModule
from .fit import Outputs, Result, check_resume, fit
from .methods import one_step_method
from .randomness import Share, StepRandom

__all__ = ["DataConfig", "DistillConfig", "DistillModule", "EDMConfig", "EDMModule", "Result", "UserError",
           "build_distill_module", "build_edm_module", "distill", "read_config", "train_edm"]  # fmt: skip


def distill(
    cfg: DistillConfig,
    *,
    teacher: EDMPrecond | None = None,
    data: ImageData | None = None,
    start: EDMPrecond | None = None,
    reward: Reward | None = None,
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
    outputs = Outputs("student.safetensors", _export(init_sigma=str(cfg.init_sigma)), draw_student,
                      {"teacher": draw_teacher})  # fmt: skip
    return fit(module, outputs, quiet)


def train_edm(cfg: EDMConfig, *, data: ImageData | None = None, quiet: bool = False) -> Result:
    """Train an EDM network on images; arguments and errors as `distill`."""
    cfg.check()
    check_resume(cfg, _folder(cfg))
    outputs = Outputs("network.safetensors", _export(), lambda module: _heun_grid(module.ema, module))
    return fit(build_edm_module(cfg, data=data), outputs, quiet)


def build_distill_module(
    cfg: DistillConfig,
    *,
    teacher: EDMPrecond | None = None,
    data: ImageData | None = None,
    start: EDMPrecond | None = None,
    reward: Reward | None = None,
) -> DistillModule:
    """The module of `distill`, everything read and checked, nothing trained."""
    method = one_step_method(cfg.method, reward is not None)
    if cfg.loss_scale.student == 0 and not any(method.auxiliary.values()):
        raise UserError(f"loss_scale.student=0 leaves method={method.name!r} nothing to learn from: it has no "
                        "auxiliary term; choose a method with one, e.g. uni_instruct (gan)")  # fmt: skip
    if data is None and method.needs_discriminator and cfg.real == "data":
        data = load_data(cfg.data)
    if teacher is None:
        if not cfg.teacher:
            raise UserError("teacher is missing: a safetensors file of an EDM network, e.g. from scripts/train_edm.py")
        teacher = load_edm(cfg.teacher, cfg.preset)
    if data is not None:
        check_fit(data, teacher, "teacher")
    fake = None
    if start is None and cfg.start:
        start, fake = load_start(Path(cfg.start), teacher, cfg.init_sigma)
    module = DistillModule(cfg, teacher, data, start, fake, reward)
    if module.needs_bank:
        folder = cfg.bank.path or (Path(cfg.out or "outputs/distill2d") / "bank")
        require_writable("bank.path", folder)
        module.bank = TeacherBank(cfg.bank, Path(folder), teacher, module.frequencies, cfg.seed)
    return module


def build_edm_module(cfg: EDMConfig, *, data: ImageData | None = None) -> EDMModule:
    """The module of `train_edm`."""
    data = load_data(cfg.data) if data is None else data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        network = build_network(cfg.network, dropout=cfg.dropout)
    check_fit(data, network, "network")
    return EDMModule(cfg, data, network)


def check_fit(data: ImageData, network: EDMPrecond, name: str) -> None:
    """Refuse data of another size or with other classes than the network's.

    Raises:
        UserError: one line with both sides.
    """
    wanted = (network.img_channels, network.img_resolution, network.img_resolution)
    if tuple(data.shape) != wanted:
        found, wanted = ("x".join(map(str, (*shape[1:], shape[0]))) for shape in (data.shape, wanted))
        raise UserError(f"data ({data.name}) has images {found} (height x width x channels), the {name} takes {wanted}")
    if network.label_dim and data.num_classes != network.label_dim:
        found = f"{data.num_classes} classes" if data.num_classes else "no labels"
        raise UserError(f"data ({data.name}) has {found}, the {name} has {network.label_dim} classes")


def load_start(path: Path, teacher: EDMPrecond, init_sigma: float) -> tuple[EDMPrecond, EDMPrecond | None]:
    """Student, and the fake score where the file has one (last.ckpt); both with the teacher's architecture."""
    if not path.is_file():
        raise UserError(f"start={str(path)!r} does not exist")
    if path.suffix != ".ckpt":
        _same_sigma(path, read_header(path).get("init_sigma"), init_sigma)
        return load_edm(path, teacher.config), None
    checkpoint = read_checkpoint(path)
    _same_sigma(path, checkpoint["config"].get("init_sigma"), init_sigma)
    state = checkpoint["state_dict"]
    return tuple(_from_state(state, prefix, path, teacher) for prefix in ("ema.", "fake."))


def _same_sigma(path: Path, found: str | float | None, wanted: float) -> None:
    if found is not None and float(found) != wanted:
        raise UserError(f"start={str(path)!r} was distilled with init_sigma={float(found)}, not {wanted}")


def _from_state(state: dict[str, Tensor], prefix: str, path: Path, teacher: EDMPrecond) -> EDMPrecond:
    network = build_network(teacher.config)
    tensors = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"start={str(path)!r} holds no {prefix[:-1]} of the teacher's architecture") from error
    return network


# --- pictures and files -----------------------------------------------------------------------------------------------


def _grid_inputs(module, network: EDMPrecond) -> tuple[Tensor, Tensor | None]:
    """The same noise and classes for every grid of a run."""
    count = module.cfg.grid
    shape = (network.img_channels, network.img_resolution, network.img_resolution)
    z = StepRandom(module.cfg.seed, 0, "grid").normal("z", Share(0, count, count), shape).to(module.device)
    labels = balanced_labels(count, network.label_dim).to(module.device) if network.label_dim else None
    return z, one_hot_or_none(labels, network.label_dim)


@torch.no_grad()
def draw_student(module: DistillModule) -> Tensor:
    """One-step samples of the averaged student."""
    z, labels = _grid_inputs(module, module.ema)
    return one_step(module.ema, z, labels, module.cfg.init_sigma)


def draw_teacher(module: DistillModule) -> Tensor:
    """The teacher's samples from the same noise, 35 evaluations each."""
    return _heun_grid(module.teacher, module)


def _heun_grid(network: EDMPrecond, module) -> Tensor:
    return HeunSampler()(network, *_grid_inputs(module, network))


def _export(**notes: str):
    return lambda module, path: save_edm(path, module.ema, steps=str(module.done_steps), **notes)


def _folder(cfg) -> Path | None:
    return None if cfg.out is None else Path(cfg.out)
