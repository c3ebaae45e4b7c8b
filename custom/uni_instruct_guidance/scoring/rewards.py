"""Differentiable rewards of a rendering, for the `reward` addition of the methods table (DI++, DI*, stage 3).

They are the scorers of this package. `system.guidance.reward` names one: `clip`, `aesthetic`, a registered name, or the
path of a function, `rewards/mine.py:brightness` or `package.module:function`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseModule

from ..core.named import load_named
from .aesthetic import AestheticScorer
from .clip import BUILTIN, ClipScorer

#: Short name -> registered name.
REWARDS = {
    "clip": "uni-instruct-clip-reward",
    "aesthetic": "uni-instruct-aesthetic-reward",
}
FUNCTION_REWARD = "uni-instruct-function-reward"
KEY = "system.guidance.reward"


def build_reward(reward_type: str, reward: str | Mapping[str, Any] | None) -> BaseModule | None:
    """The reward that a configuration asks for, None for none.

    Args:
        reward_type: a name (see the module's docstring), with its options in `reward`; or empty.
        reward: a name alone, or the options of `reward_type`.

    Raises:
        ValueError: a name in both places, options without a name, an unknown name, or a reward that cannot be built.
    """
    if isinstance(reward, str):
        if reward_type and reward:
            raise ValueError(f"{KEY}={reward!r} and {KEY}_type={reward_type!r} both name a reward; give one of them")
        reward_type, reward = reward_type or reward, {}
    options = dict(reward or {})
    if not reward_type:
        if options:
            raise ValueError(f"{KEY} has options ({', '.join(options)}) but {KEY}_type is empty; name the reward there")
        return None
    if ":" in reward_type:
        reward_type, options = FUNCTION_REWARD, {"function": reward_type, **options}
    name = REWARDS.get(reward_type, reward_type)
    if name not in threestudio.__modules__:
        raise ValueError(
            f"{KEY}_type={reward_type!r} is not known; choose one of {', '.join(REWARDS)}, a registered name, or a "
            f"function as FILE.py:NAME"
        )
    return threestudio.find(name)(options)


@threestudio.register("uni-instruct-clip-reward")
class ClipReward(BaseModule):
    """Cosine similarity of rendering and prompt in an open-clip model: in −1..1, higher is better."""

    @dataclass
    class Config(BaseModule.Config):
        """model, pretrained: see ClipScorer.

        view_dependent: compare with the view's prompt ("…, front view") instead of the plain one.
        """

        model: str = BUILTIN
        pretrained: str | None = None
        view_dependent: bool = False

    cfg: Config

    def configure(self) -> None:
        self.scorer = _built(lambda: ClipScorer(self.cfg.model, self.cfg.pretrained, self.device))
        threestudio.info(f"reward: {self.scorer.label} ({self.scorer.size}x{self.scorer.size})")

    def forward(self, image: Float[Tensor, "B 3 H W"], prompt_utils, index: Tensor | None = None) -> Float[Tensor, "B"]:
        """Similarity of each image in 0..1 to the prompt; `index` [B] picks the view's prompt if `view_dependent`."""
        view_dependent = self.cfg.view_dependent and index is not None
        text = self.scorer.embed_texts(prompt_utils.prompts_vd if view_dependent else [prompt_utils.prompt])
        text = text[index] if view_dependent else text.expand(len(image), -1)
        return (self.scorer.embed(image.permute(0, 2, 3, 1)) * text).sum(-1)


@threestudio.register("uni-instruct-aesthetic-reward")
class AestheticReward(BaseModule):
    """LAION's aesthetic predictor on the rendering: about 1..10, higher is better. It does not see the prompt."""

    @dataclass
    class Config(BaseModule.Config):
        """predictor: file of its weights. model, pretrained: the CLIP it was made for, see ClipScorer."""

        predictor: str = ""
        model: str = "ViT-L-14"
        pretrained: str | None = "openai"

    cfg: Config

    def configure(self) -> None:
        if not self.cfg.predictor:
            raise ValueError(f"{KEY}.predictor is empty; give the predictor's file, sac+logos+ava1-l14-linearMSE.pth")
        self.scorer = _built(
            lambda: AestheticScorer(self.cfg.predictor, ClipScorer(self.cfg.model, self.cfg.pretrained, self.device))
        )
        threestudio.info(f"reward: {self.scorer.label}")
        if self.scorer.remark:
            threestudio.warn(self.scorer.remark)

    def forward(self, image: Float[Tensor, "B 3 H W"], prompt_utils, index: Tensor | None = None) -> Float[Tensor, "B"]:
        """Score of each image in 0..1."""
        return self.scorer.embed_and_score(image.permute(0, 2, 3, 1))


@threestudio.register(FUNCTION_REWARD)
class FunctionReward(BaseModule):
    """A user's function of renderings [B, H, W, 3] in 0..1 and their prompts (a list of B), to rewards [B]."""

    @dataclass
    class Config(BaseModule.Config):
        """function: `FILE.py:NAME` or `package.module:NAME`. view_dependent: give it the views' prompts."""

        function: str = ""
        view_dependent: bool = False

    cfg: Config

    def configure(self) -> None:
        self.function = load_function(self.cfg.function)
        threestudio.info(f"reward: {self.cfg.function}")

    def forward(self, image: Float[Tensor, "B 3 H W"], prompt_utils, index: Tensor | None = None) -> Float[Tensor, "B"]:
        """What the function says.

        Raises:
            ValueError: the function fails, returns something else than [B], or nothing that depends on the pictures.
        """
        view_dependent = self.cfg.view_dependent and index is not None
        prompts = [prompt_utils.prompts_vd[i] for i in index.tolist()] if view_dependent else None
        try:
            value = self.function(image.permute(0, 2, 3, 1), prompts or [prompt_utils.prompt] * len(image))
        except Exception as error:  # whatever a user's function raises
            raise ValueError(f"{KEY}={self.cfg.function!r} failed: {type(error).__name__}: {error}") from error
        if not isinstance(value, Tensor) or value.shape != image.shape[:1]:
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{KEY}={self.cfg.function!r} returned {found}, expected a tensor [{len(image)}]")
        if image.requires_grad and torch.is_grad_enabled() and not value.requires_grad:
            raise ValueError(f"{KEY}={self.cfg.function!r} is not differentiable in the pictures")
        return value


def load_function(path: str) -> Callable:
    """The function of `FILE.py:NAME` or `package.module:NAME`.

    Raises:
        ValueError: one line: no such file, module or function, or it cannot be imported.
    """
    function = load_named(KEY, path)
    try:
        inspect.signature(function).bind("images", "prompts")
    except TypeError as error:
        raise ValueError(f"{KEY}={path!r} must take (images, prompts): {error}") from error
    except ValueError:  # compiled ones have no signature
        pass
    return function


def _built(make: Callable[[], Any]) -> Any:
    """A scorer's complaint with the key that it belongs to."""
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"{KEY}: {error}") from error
