"""Stable-Diffusion-format folders and hub ids as the one-step trainer meets them: latents and prompts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.errors import UserError
from ...core.files import folder_atomically, listed_lines
from ...teachers.contract import Conditions, DiffusionTeacher
from ...teachers.discriminator import DiscriminatorHead
from ...teachers.sampling import Start
from ..data import ImageData
from ..data.captions import captions_of
from .base import Family, Reward, from_checkpoint

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class StableDiffusionFamily(Family):
    """Stable-Diffusion-format folders and hub ids: latents, prompts, full copies or LoRA."""

    text = True
    file = "student"

    def teacher(self) -> DiffusionTeacher:
        from ...teachers.stable_diffusion.teacher import Teacher

        return Teacher.load(self.cfg.teacher, torch.device("cpu"), dtype=_DTYPES[self.cfg.precision])

    def conditions(self, teacher: DiffusionTeacher, data: ImageData | None) -> Conditions:
        from ...teachers.stable_diffusion.text import PromptConditions

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
        return from_checkpoint(path, teacher, lambda found: None)

    def export(self, module, path: Path) -> None:
        from ...teachers.stable_diffusion.export import save_one_step_pipeline

        folder_atomically(path, partial(save_one_step_pipeline, module.teacher, module.ema, module.start.t))

    def reward(self) -> Reward | None:
        name, options = self.cfg.text.reward, dict(self.cfg.text.reward_options)
        if not name:
            return None
        from ..rewards import reward_of_prompts

        return reward_of_prompts(name, options)


def read_prompts(path: str | None) -> list[str]:
    """Prompts of `text.prompts`, one a line.

    Raises:
        UserError: no file, or nothing in it.
    """
    if not path:
        raise UserError("text.prompts is missing: a text file with one prompt a line, e.g. prompts/shapes.txt")
    return listed_lines(path, "text.prompts")[0]
