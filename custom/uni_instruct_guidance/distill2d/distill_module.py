"""Algorithm 1 of Uni-Instruct (arXiv 2505.20755) as a Lightning module: student, fake score and discriminator."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from ..core import Method, RatioWarmup, check_by_parts
from ..core.errors import UserError
from ..teachers.bank import TeacherBank
from ..teachers.contract import DiffusionTeacher
from .config import DistillConfig, schedule
from .data import ArrayData, ImageData
from .distill_losses import DistillLosses
from .families import Family, Reward
from .methods import one_step_method

# Names of the discriminator's layers before heads of both families became one.
OLD_HEAD = {
    "head.norm.": "head.branches.mid.0.", "head.hidden.": "head.branches.mid.2.",
    "head.logit.": "head.branches.mid.4.",
}  # fmt: skip


class DistillModule(DistillLosses):
    """Trains g(z) = x̂0(scale · z; t_init) against a frozen teacher of either family.

    Each step: `fake_updates` updates of fake score and discriminator, then one of the student.

    Args:
        cfg: configuration.
        family: how this teacher's kind is asked and shipped.
        teacher: frozen, predicts x̂0.
        data: real images for the discriminator; None where none are needed or the teacher's samples serve.
        student, fake: networks to start from; None: the teacher.
        reward: differentiable, of samples (EDM: [B, C, H, W] ↦ [B]) or of images in 0..1 and their prompts.

    Attributes:
        method: the row with the configuration's options.
        start: where the generator enters the noise process.
        bank: where the teacher's ODE samples come from; set before training when the method or `real` needs them.
    """

    title = "distillation"

    def __init__(
        self,
        cfg: DistillConfig,
        family: Family,
        teacher: DiffusionTeacher,
        data: ImageData | None,
        student: nn.Module | None = None,
        fake: nn.Module | None = None,
        reward: Reward | Callable[[Tensor], Tensor] | None = None,
    ):
        student = family.student(teacher, student)
        super().__init__(cfg, data, student)
        self.method: Method = one_step_method(cfg.method, reward is not None, family.text)
        self.student = student
        self.fake = family.fake(teacher, self.method.fake_score, fake)
        self.uses_discriminator = self.method.needs_discriminator
        self.features: list[str] = []
        if self.uses_discriminator:
            # Its own random numbers: every process, and every run with this seed, starts with the same head.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(cfg.seed)
                self.head, self.features = family.head(self.fake)
        # In a dictionary: kept out of state_dict, and the process's tables stay where levels are drawn, on the CPU.
        self._unsaved = {
            "teacher": teacher, "reward": reward, "process": deepcopy(teacher.process), "family": family,
            "conditions": family.conditions(teacher, data),
        }  # fmt: skip
        self.start = family.start(teacher)
        self.student_noise, self.fake_noise = cfg.student_noise.build(), cfg.fake_noise.build()
        self.ratio_warmup = RatioWarmup(cfg.warmup.student + cfg.warmup.ratio, cfg.warmup.ramp)
        for stage in (self.method, *(self.method.at(at) for at, _ in self.method.schedule)):
            check_by_parts(stage.objective, self.process, self.student_noise, lambda option: f"method.{option}")
        self.lr = schedule("lr", cfg.lr)
        self.fake_lr = schedule("fake_lr", cfg.lr if cfg.fake_lr is None else cfg.fake_lr)
        self.bank: TeacherBank | None = None
        self._warned = False
        # samples of this step that the objective was asked about, and those of them that were not finite
        self._judged: int | Tensor = 0
        self._rejected: int | Tensor = 0

    # --- what is needed ---------------------------------------------------------------------------------------------

    @property
    def needs_bank(self) -> bool:
        """Whether the teacher's ODE samples are used."""
        stages = [self.method, *(self.method.at(step) for step, _ in self.method.schedule)]
        regresses = any(stage.auxiliary.get("regression") for stage in stages)
        return regresses or (self.uses_discriminator and self.cfg.real == "teacher")

    def shipped(self) -> nn.Module:
        return self.student

    def networks(self) -> list:
        return [self.student, self.fake, self.teacher]

    def updates_with_data(self) -> int:
        return self.method.fake_updates if self.uses_discriminator else 0

    def fingerprint(self) -> str:
        """The teacher's, read once."""
        if "fingerprint" not in self._unsaved:
            self._unsaved["fingerprint"] = self.teacher.fingerprint()
        return self._unsaved["fingerprint"]

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["teacher"] = self.fingerprint()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        before = checkpoint.get("teacher")  # runs from before teachers were noted have none
        if before is not None and before != self.fingerprint():
            raise UserError(
                f"out={self.cfg.out!r} holds a run with another teacher than {self.teacher.name!r} is now (fingerprint "
                f"{before}, now {self.fingerprint()}); choose another out, or resume=false to begin anew"
            )
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        for old, new in OLD_HEAD.items():
            for name in [name for name in state if name.startswith(old)]:
                state[new + name.removeprefix(old)] = state.pop(name)

    def configure_optimizers(self):
        critic = [*self.fake.parameters(), *(self.head.parameters() if self.uses_discriminator else [])]
        fake_lr = self.cfg.lr if self.cfg.fake_lr is None else self.cfg.fake_lr
        return [self.adam(self.student.parameters(), self.cfg.lr), self.adam(critic, fake_lr)]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.teacher.to(self.device)
        self.ema.eval()
        if self.bank is not None:
            self.bank.make(self.trainer.global_rank, self.trainer.world_size, self.device)
            self.trainer.strategy.barrier()
            self.bank.load()
            if self.cfg.real == "teacher":
                rows = self.bank.rows if self.conditions.count else None
                self.data = ArrayData("teacher samples", self.bank.x0, rows)

    # --- one step ---------------------------------------------------------------------------------------------------

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        student_optimizer, fake_optimizer = self.optimizers()
        share, step = self.share(), self.done_steps
        method = self.method.at(step)
        for update in range(self.method.fake_updates):
            real = None
            if self.uses_discriminator:
                mine = slice(update * share.count, (update + 1) * share.count)
                real = images[mine], labels[mine]
            micro = share.micro(self.cfg.micro_batch)
            self.accumulate(self._fake_losses(micro, real, self.random(f"fake{update}")), micro)
            self.guarded_step("fake_score", fake_optimizer, self.fake_lr)
        if step < self.cfg.warmup.student:
            return
        micro = share.micro(self.cfg.micro_batch)
        critics = [self.fake, *([self.head] if self.uses_discriminator else [])]
        for critic in critics:
            critic.requires_grad_(False)
        self._judged = self._rejected = 0
        self.accumulate(self._student_losses(micro, method, self.random("student")), micro)
        self.count_rejected(self._judged, self._rejected)
        for critic in critics:
            critic.requires_grad_(True)
        self.guarded_step("student", student_optimizer, self.lr)
