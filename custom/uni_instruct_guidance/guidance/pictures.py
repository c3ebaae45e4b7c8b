"""What the networks of a guidance would draw, for validation pictures."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..teachers.sampling import solve_discrete
from .views import whole_groups


class DrawsPictures:
    """`sample` and `sample_lora` of a guidance, from its `teacher`, `networks`, `groups` and settings."""

    @torch.no_grad()
    def sample(self, prompt_utils, elevation, azimuth, camera_distances, seed: int = 0, **batch):
        """What the teacher draws for these views: images [B, H, W, 3] in 0..1. A multi-view teacher draws the group of
        each view; views that are whole groups already are drawn together."""
        cameras = {"elevation": elevation, "azimuth": azimuth, "camera_distances": camera_distances, **batch}
        cameras, asked = whole_groups(cameras, self.groups.n, self.teacher.name)
        condition = self._condition(prompt_utils, cameras)
        teacher = self.teacher if condition.view is None else self.teacher.seen_from(condition.view)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return teacher.guided(x_t, t, condition.text, condition.uncond, self.guidance_scale)

        return self._draw(predict, len(condition.text), seed)[asked]

    @torch.no_grad()
    def sample_lora(self, prompt_utils, elevation, azimuth, camera_distances, seed: int = 0, **batch):
        """What the fake score believes the renderings look like; the teacher's picture if there is no fake score."""
        if self.networks.fake is None:
            return self.sample(prompt_utils, elevation, azimuth, camera_distances, seed, **batch)
        cameras = {"elevation": elevation, "azimuth": azimuth, "camera_distances": camera_distances, **batch}
        cameras, asked = whole_groups(cameras, self.groups.n, self.teacher.name)
        condition = self._condition(prompt_utils, cameras)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return self.networks.fake(x_t, t, condition.fake_text, condition.fake_camera)[0]

        return self._draw(predict, len(condition.text), seed)[asked]

    def _draw(self, predict, rows: int, seed: int) -> Float[Tensor, "B H W 3"]:
        generator = torch.Generator().manual_seed(seed)
        steps, solver = self.blocks.bank.steps, self.blocks.bank.solver
        noise = torch.randn((rows, *self.teacher.shape), generator=generator).to(self.teacher.device)
        latents = solve_discrete(self.teacher.scheduler_config, predict, noise, steps=steps, solver=solver)
        return self.teacher.decode(latents).permute(0, 2, 3, 1)
