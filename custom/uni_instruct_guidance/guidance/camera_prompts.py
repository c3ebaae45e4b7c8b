"""``uni-instruct-prompt-processor``: the stock prompt processor, with the camera's words behind the view word.

A camera is a direction like threestudio's own four: a prompt, and a condition on elevation and azimuth. So everything
that works on directions (embeddings and their cache, the bank of teacher samples) works on cameras unchanged, with the
built-in host and with upstream threestudio.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import threestudio
from threestudio.models.prompt_processors.base import DirectionConfig
from threestudio.models.prompt_processors.stable_diffusion_prompt_processor import StableDiffusionPromptProcessor

from ..core.camera_words import AZIMUTHS, ELEVATIONS, camera_bins, with_camera
from ..core.files import found


class _CameraNumbers:
    """Number of each camera among all (azimuth, elevation) words, computed once per batch of cameras."""

    def __init__(self) -> None:
        self.cameras: tuple[Tensor, Tensor] | None = None

    def __call__(self, elevation: Float[Tensor, "B"], azimuth: Float[Tensor, "B"]) -> Int[Tensor, "B"]:
        if self.cameras is None or self.cameras[0] is not elevation or self.cameras[1] is not azimuth:
            around, above = camera_bins(azimuth, elevation)
            self.cameras, self.numbers = (elevation, azimuth), above * len(AZIMUTHS) + around
        return self.numbers


@threestudio.register("uni-instruct-prompt-processor")
class UniInstructPromptProcessor(StableDiffusionPromptProcessor):
    """View-dependent prompts for every 15° of azimuth and elevation, for teachers that know the words.

    The teacher may be a folder of the project, also under the stock systems of threestudio proper, which look for it in
    the working folder alone.
    """

    @dataclass
    class Config(StableDiffusionPromptProcessor.Config):
        """camera_words: "a red mug, front view, azimuth 015, elevation 30" instead of "a red mug, front view"."""

        camera_words: bool = True

    cfg: Config

    def configure(self) -> None:
        self.cfg.pretrained_model_name_or_path = str(found(self.cfg.pretrained_model_name_or_path))
        super().configure()

    def prepare_text_embeddings(self) -> None:
        """Add one direction per camera word to the stock four, then embed them all."""
        if self.cfg.camera_words:
            if self.cfg.use_perp_neg:
                raise ValueError(
                    "system.prompt_processor.camera_words=true and use_perp_neg=true exclude each other: one tells the "
                    "camera, the other mixes the four view words; set one of them to false"
                )
            self._add_cameras()
        super().prepare_text_embeddings()

    def _add_cameras(self) -> None:
        numbers = _CameraNumbers()
        words = list(zip(self.directions, self.prompts_vd, self.negative_prompts_vd))
        for above, elevation in enumerate(ELEVATIONS):
            for around, azimuth in enumerate(AZIMUTHS):
                # the last of the stock directions that apply to the middle of this bin
                middle = [torch.tensor([float(value)]) for value in (elevation, azimuth, 1.0)]
                view, prompt, negative = [row for row in words if bool(row[0].condition(*middle))][-1]
                name = f"{view.name} {azimuth:03d} {elevation}"
                self.direction2idx[name] = len(self.directions)
                self.directions.append(_direction(name, negative, numbers, above * len(AZIMUTHS) + around))
                self.prompts_vd.append(self.directions[-1].prompt(prompt))
                self.negative_prompts_vd.append(negative)


def _direction(name: str, negative: str, numbers: _CameraNumbers, number: int) -> DirectionConfig:
    """The direction of one camera word; it takes a prompt that already names the view."""
    above, around = divmod(number, len(AZIMUTHS))

    def condition(elevation: Tensor, azimuth: Tensor, distance: Tensor) -> Bool[Tensor, "B"]:
        return numbers(elevation, azimuth) == number

    return DirectionConfig(name, lambda text: with_camera(text, around, above), lambda text: negative, condition)
