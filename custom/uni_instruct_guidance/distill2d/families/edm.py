"""EDM networks as the one-step trainer meets them: pixels, classes or nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.files import atomically
from ...teachers.discriminator import DiscriminatorHead
from ...teachers.edm import EDMPrecond, load_edm, save_edm
from ...teachers.edm.checkpoint import read_header
from ...teachers.edm.teacher import ClassConditions, EDMTeacher
from ...teachers.sampling import Start
from ..data import ImageData, to_unit_range
from .base import Family, from_checkpoint


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
        return from_checkpoint(path, teacher, lambda found: self._same_sigma(path, found.get("init_sigma")))

    def _same_sigma(self, path: Path, found: str | float | None) -> None:
        if found is not None and float(found) != self.cfg.init_sigma:
            raise UserError(
                f"start={str(path)!r} was distilled with init_sigma={float(found)}, not {self.cfg.init_sigma}"
            )

    def export(self, module, path: Path) -> None:
        notes = {"steps": str(module.done_steps), "init_sigma": str(self.cfg.init_sigma)}
        atomically(path, lambda partial: save_edm(partial, module.ema, **notes))


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
