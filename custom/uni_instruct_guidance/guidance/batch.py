"""What a batch of renderings says, as the networks are told it."""

from __future__ import annotations

from functools import partial

from jaxtyping import Float
from torch import Tensor

from ..teachers.stable_diffusion.camera import CAMERA_ENCODINGS
from ..teachers.stable_diffusion.networks import Condition
from ..teachers.stable_diffusion.teacher import resized
from .bank import SampleBank
from .group_bank import GroupBank
from .learning import Real
from .prompts import condition_of, direction_indices, direction_texts


class ReadsBatch:
    """Latents, conditions and teacher samples of a guidance, from its `teacher`, `networks`, `groups`, `bank` and
    settings."""

    def _latents(self, image: Float[Tensor, "B C H W"], as_latents: bool) -> Float[Tensor, "B C h w"]:
        """What the teacher sees of a picture, encoded or taken for latents as it is."""
        if not as_latents:
            return self.teacher.encode(image, size=self.encode_size)
        if image.shape[1] != self.teacher.unet.config.in_channels:
            raise ValueError(
                f"rgb_as_latents: the picture has {image.shape[1]} channels, latents have "
                f"{self.teacher.unet.config.in_channels}"
            )
        side = self.teacher.latent_size
        if self.encode_size is not None:
            side = self.encode_size * side // self.teacher.image_size
        return resized(image, side)

    def _condition(self, prompt_utils, cameras: dict) -> Condition:
        camera = None
        encoding = CAMERA_ENCODINGS[self.blocks.fake_score.camera_condition] if self.networks.fake is not None else None
        if encoding is not None:
            camera = encoding[0](cameras).to(self.device)
        view = self.teacher.told(cameras).to(self.device) if self.groups.n > 1 else None
        return condition_of(
            prompt_utils,
            cameras,
            view_dependent=self.cfg.view_dependent_prompting,
            fake_view_dependent=self.blocks.fake_score.view_dependent_prompt,
            camera=camera,
            view=view,
            perp_neg=self.perp_neg,
        )

    def _real(self, prompt_utils, cameras: dict, condition: Condition) -> Real | None:
        """Teacher samples where a discriminator wants them: of each view's prompt; or whole groups at cameras of their
        own."""
        if self.networks.head is None:
            return None
        rows = partial(direction_indices, prompt_utils, view_dependent=self.cfg.view_dependent_prompting)
        if self.bank is None:
            texts = direction_texts(prompt_utils, self.cfg.view_dependent_prompting)
            cfg, folder = self.blocks.bank, self.cfg.bank_dir
            if self.groups.n > 1:
                self.bank = GroupBank(self.teacher, texts, rows, cfg, folder)
            else:
                self.bank = SampleBank(self.teacher, texts, cfg, folder)
            self.bank.update(self.step)
        if self.groups.n == 1:
            return Real(self.bank.draw(rows(cameras)), condition)
        latents, where = self.bank.draw(self.groups.count(len(cameras["elevation"])))
        return Real(latents, self._condition(prompt_utils, where))
