"""The two families of teachers, as the one-step trainer meets them: how each is read, asked, drawn and shipped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.files import atomically, folder_atomically, listed_lines
from ..teachers.contract import Conditions, DiffusionTeacher
from ..teachers.discriminator import DiscriminatorHead
from ..teachers.edm import EDMPrecond, load_edm, save_edm
from ..teachers.edm.checkpoint import read_header
from ..teachers.edm.teacher import ClassConditions, EDMTeacher
from ..teachers.sampling import Start
from .config import DistillConfig
from .data import ImageData, to_unit_range
from .data.captions import captions_of

Reward = Callable[[Tensor, list[str]], Tensor]


class Family(ABC):
    """One family under one configuration.

    Attributes:
        text: whether conditions are prompts: then guidance, LoRA and rewards by name are at hand.
        file: what a finished student is called in `out`.
    """

    text: bool = False
    file: str

    def __init__(self, cfg: DistillConfig) -> None:
        self.cfg = cfg

    @abstractmethod
    def teacher(self) -> DiffusionTeacher:
        """Read from what the configuration names."""

    @abstractmethod
    def conditions(self, teacher: DiffusionTeacher, data: ImageData | None) -> Conditions: ...

    @abstractmethod
    def check_data(self, data: ImageData, teacher: DiffusionTeacher) -> None:
        """Refuse real images that do not fit the teacher."""

    @abstractmethod
    def real(self, images: Tensor, teacher: DiffusionTeacher, generator: torch.Generator) -> Tensor:
        """Real images as the loader gives them ↦ samples x_0."""

    @abstractmethod
    def start(self, teacher: DiffusionTeacher) -> Start:
        """Where the generator enters the noise process."""

    @abstractmethod
    def student(self, teacher: DiffusionTeacher, begin: nn.Module | None = None) -> nn.Module:
        """A `Denoiser` that starts as the teacher, or as `begin`."""

    @abstractmethod
    def fake(self, teacher: DiffusionTeacher, kind: str, begin: nn.Module | None = None) -> nn.Module:
        """The fake score, likewise."""

    @abstractmethod
    def head(self, fake: nn.Module) -> tuple[DiscriminatorHead, list[str]]:
        """The discriminator's head, and the features it reads."""

    @abstractmethod
    def begin(self, path: Path, teacher: DiffusionTeacher) -> tuple[nn.Module, nn.Module | None]:
        """Student and fake score of `start:`."""

    @abstractmethod
    def export(self, module, path: Path) -> None:
        """Ship the averaged student, whole or not at all."""

    def reward(self) -> Reward | None:
        """The reward that the configuration names, of samples x_0 and what they were asked for."""
        return None


class EDMFamily(Family):
    """EDM networks: pixels, classes or nothing, full copies."""

    file = "student.safetensors"

    def teacher(self) -> EDMTeacher:
        if not self.cfg.teacher:
            raise UserError("teacher is missing: a safetensors file of an EDM network, e.g. from scripts/train_edm.py, "
                            "or a Stable-Diffusion-format folder")  # fmt: skip
        return EDMTeacher(load_edm(self.cfg.teacher, self.cfg.preset), self.cfg.teacher)

    def conditions(self, teacher: EDMTeacher, data: ImageData | None) -> ClassConditions:
        return ClassConditions(teacher.network.label_dim, None if data is None else data.class_frequencies())

    def check_data(self, data: ImageData, teacher: EDMTeacher) -> None:
        check_fit(data, teacher.network, "teacher")

    def real(self, images: Tensor, teacher: EDMTeacher, generator: torch.Generator) -> Tensor:
        return to_unit_range(images)

    def start(self, teacher: EDMTeacher) -> Start:
        return Start(float(self.cfg.init_sigma), self.cfg.init_sigma)

    def student(self, teacher: EDMTeacher, begin: EDMPrecond | None = None) -> EDMPrecond:
        source = teacher if begin is None else EDMTeacher(begin)
        return source.learner(dropout=self.cfg.dropout)

    def fake(self, teacher: EDMTeacher, kind: str, begin: EDMPrecond | None = None) -> EDMPrecond:
        return self.student(teacher, begin)

    def head(self, fake: EDMPrecond) -> tuple[DiscriminatorHead, list[str]]:
        return DiscriminatorHead(fake.feature_widths(), None, "pointwise"), ["mid"]

    def begin(self, path: Path, teacher: EDMTeacher) -> tuple[EDMPrecond, EDMPrecond | None]:
        if not path.is_file():
            raise UserError(f"start={str(path)!r} does not exist")
        if path.suffix != ".ckpt":
            self._same_sigma(path, read_header(path).get("init_sigma"))
            return load_edm(path, teacher.network.config), None
        return _from_checkpoint(path, teacher, lambda found: self._same_sigma(path, found.get("init_sigma")))

    def _same_sigma(self, path: Path, found: str | float | None) -> None:
        if found is not None and float(found) != self.cfg.init_sigma:
            raise UserError(
                f"start={str(path)!r} was distilled with init_sigma={float(found)}, not {self.cfg.init_sigma}"
            )

    def export(self, module, path: Path) -> None:
        notes = {"steps": str(module.done_steps), "init_sigma": str(self.cfg.init_sigma)}
        atomically(path, lambda partial: save_edm(partial, module.ema, **notes))


class StableDiffusionFamily(Family):
    """Stable-Diffusion-format folders and hub ids: latents, prompts, full copies or LoRA."""

    text = True
    file = "student"

    def teacher(self) -> DiffusionTeacher:
        from ..teachers.stable_diffusion.teacher import Teacher

        return Teacher.load(self.cfg.teacher, torch.device("cpu"), dtype=_DTYPES[self.cfg.precision])

    def conditions(self, teacher: DiffusionTeacher, data: ImageData | None) -> Conditions:
        from ..teachers.stable_diffusion.text import PromptConditions

        captions = [] if data is None else captions_of(data)
        prompts = read_prompts(self.cfg.text.prompts) if self.cfg.text.prompts or not captions else []
        conditions = PromptConditions(teacher.name, prompts, self.cfg.text.negative, captions=captions)
        if data is not None:
            data.labels = torch.arange(len(captions)) + len(prompts)
        cut = conditions.too_long()
        if cut:
            prompt, lost = cut[0]
            print(f"text.prompts: {len(cut)} of {conditions.count} prompts are longer than the tokenizer's "
                  f"{conditions.length} tokens; the first, {prompt[:40]!r}…, loses {lost!r}")  # fmt: skip
        return conditions

    def check_data(self, data: ImageData, teacher: DiffusionTeacher) -> None:
        captions_of(data)  # any size will do: encoding resizes

    @torch.no_grad()
    def real(self, images: Tensor, teacher: DiffusionTeacher, generator: torch.Generator) -> Tensor:
        if images.dtype != torch.uint8:
            return images  # the teacher's own samples are latents already
        return teacher.encode((images.float() / 255).expand(-1, 3, -1, -1), generator)

    def start(self, teacher: DiffusionTeacher) -> Start:
        t_init = self.cfg.text.t_init
        if not 0 <= t_init < teacher.process.steps:
            raise UserError(f"text.t_init={t_init} must be an index of the teacher's {teacher.process.steps} steps, "
                            f"0 to {teacher.process.steps - 1}")  # fmt: skip
        return Start(t_init)

    def _learner(self, teacher: DiffusionTeacher, kind: str, begin: nn.Module | None) -> nn.Module:
        text = self.cfg.text
        options = {"rank": text.rank, "alpha": text.alpha, "targets": list(text.targets)} if kind == "lora" else {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.cfg.seed)  # LoRA's first factors: the same in every process
            learner = teacher.learner(kind, **options)
        if begin is not None:
            learner.load_state_dict(begin.state_dict())
        return learner

    def student(self, teacher: DiffusionTeacher, begin: nn.Module | None = None) -> nn.Module:
        return self._learner(teacher, self.cfg.text.student, begin)

    def fake(self, teacher: DiffusionTeacher, kind: str, begin: nn.Module | None = None) -> nn.Module:
        return self._learner(teacher, kind, begin)

    def head(self, fake: nn.Module) -> tuple[DiscriminatorHead, list[str]]:
        names, known = list(self.cfg.text.features), fake.feature_widths()
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise UserError(f"text.features={unknown or '[]'}; choose from {', '.join(known)}")
        return DiscriminatorHead({name: known[name] for name in names}, self.cfg.text.width), names

    def begin(self, path: Path, teacher: DiffusionTeacher) -> tuple[nn.Module, nn.Module | None]:
        if not path.is_file():
            raise UserError(f"start={str(path)!r} is no file; give the last.ckpt of another run with this teacher")
        return _from_checkpoint(path, teacher, lambda found: None)

    def export(self, module, path: Path) -> None:
        from ..teachers.stable_diffusion.export import save_one_step_pipeline

        folder_atomically(path, partial(save_one_step_pipeline, module.teacher, module.ema, module.start.t))

    def reward(self) -> Reward | None:
        name, options = self.cfg.text.reward, dict(self.cfg.text.reward_options)
        if not name:
            return None
        from .rewards import reward_of_prompts

        return reward_of_prompts(name, options)


def _from_checkpoint(path: Path, teacher: DiffusionTeacher, check: Callable[[dict[str, Any]], None]):
    """Averaged student and fake score of another run's last.ckpt, as learners of this teacher."""
    from .callbacks import read_checkpoint

    checkpoint = read_checkpoint(path)
    check(checkpoint["config"])
    found = []
    for prefix in ("ema.", "fake."):
        tensors = {n.removeprefix(prefix): t for n, t in checkpoint["state_dict"].items() if n.startswith(prefix)}
        network = teacher.learner("lora" if any("lora_" in name for name in tensors) else "full")
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(f"start={str(path)!r} holds no {prefix[:-1]} of the teacher's architecture") from error
        found.append(network)
    return tuple(found)


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


def read_prompts(path: str | None) -> list[str]:
    """Prompts of `text.prompts`, one a line.

    Raises:
        UserError: no file, or nothing in it.
    """
    if not path:
        raise UserError("text.prompts is missing: a text file with one prompt a line, e.g. prompts/shapes.txt")
    return listed_lines(path, "text.prompts")[0]


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def family_of(cfg: DistillConfig, teacher: Any = None) -> Family:
    """By the teacher: a safetensors file or a network is EDM's, a folder or hub id is Stable Diffusion's."""
    edm = isinstance(teacher, (EDMPrecond, EDMTeacher))
    if teacher is None:
        path = Path(cfg.teacher or "")
        edm = not cfg.teacher or path.suffix == ".safetensors" or path.is_file()
    return EDMFamily(cfg) if edm else StableDiffusionFamily(cfg)
