"""Differentiable rewards of a rendering, for the `reward` addition of the methods table (DI++, DI*, stage 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseModule


@threestudio.register("uni-instruct-clip-reward")
class ClipReward(BaseModule):
    """Cosine similarity of rendering and prompt in an open-clip model: in −1..1, higher is better."""

    @dataclass
    class Config(BaseModule.Config):
        """model: open-clip architecture, or `local-dir:FOLDER` / `hf-hub:ID`. pretrained: its tag or a weights file.

        view_dependent: compare with the view's prompt ("…, front view") instead of the plain one.
        """

        model: str = "local-dir:load/clip/shapes"
        pretrained: str | None = None
        view_dependent: bool = False

    cfg: Config

    def configure(self) -> None:
        import open_clip

        try:
            model, _, _ = open_clip.create_model_and_transforms(self.cfg.model, pretrained=self.cfg.pretrained)
            self.tokenizer = open_clip.get_tokenizer(self.cfg.model)
        except (RuntimeError, OSError, ValueError) as error:
            raise ValueError(
                f"system.guidance.reward: model={self.cfg.model!r}, pretrained={self.cfg.pretrained!r} cannot be "
                f"loaded: {' '.join(str(error).split())[:200]}"
            ) from error
        # in a list: a frozen network, kept out of state_dict
        self._model = [model.to(self.device).eval().requires_grad_(False)]
        self._text: dict[tuple[str, ...], Tensor] = {}
        self.size = model.visual.image_size if isinstance(model.visual.image_size, int) else model.visual.image_size[0]
        self.mean = torch.tensor(model.visual.preprocess_cfg["mean"], device=self.device).reshape(1, 3, 1, 1)
        self.std = torch.tensor(model.visual.preprocess_cfg["std"], device=self.device).reshape(1, 3, 1, 1)
        threestudio.info(f"reward: CLIP {self.cfg.model} ({self.size}x{self.size})")

    def forward(self, image: Float[Tensor, "B 3 H W"], prompt_utils, index: Tensor | None = None) -> Float[Tensor, "B"]:
        """Similarity of each image in 0..1 to the prompt; `index` [B] picks the view's prompt if `view_dependent`."""
        view_dependent = self.cfg.view_dependent and index is not None
        prompts = tuple(prompt_utils.prompts_vd) if view_dependent else (prompt_utils.prompt,)
        text = self._embed(prompts)
        text = text[index] if view_dependent else text.expand(len(image), -1)
        image = F.interpolate(image, (self.size, self.size), mode="bicubic", align_corners=False, antialias=True)
        seen = F.normalize(self._model[0].encode_image((image - self.mean) / self.std), dim=-1)
        return (seen * text).sum(-1)

    @torch.no_grad()
    def _embed(self, prompts: tuple[str, ...]) -> Float[Tensor, "P D"]:
        if prompts not in self._text:
            tokens = self.tokenizer(list(prompts)).to(self.device)
            self._text[prompts] = F.normalize(self._model[0].encode_text(tokens), dim=-1)
        return self._text[prompts]
