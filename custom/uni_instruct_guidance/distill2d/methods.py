"""Which rows of the methods table train a one-step generator, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core import METHODS, Method, get_method
from ..core.methods import RANGES
from ..core.ranges import check, shown

# What a row may ask for that this trainer cannot give, by the value that asks.
FAKE_SCORE_REASONS = {
    "conditional": "it compares with the drawn noise instead of a learned fake score, which fits one picture or "
    "one scene and trains no generator",
    "teacher_reference": "it edits a reference image and trains no generator",
    "lora": "its fake score is a LoRA adapter on a text-to-image U-Net; fake_score=full trains a copy of the network",
}
AUXILIARY_REASONS = {"data_fidelity": "it solves an inverse problem and needs a measurement"}


def reason_against(method: Method, has_reward: bool = False, text: bool = False) -> str | None:
    """Why a method cannot train a one-step generator from an EDM teacher, or a text-to-image one; None if it can."""
    stages = [method, *(method.at(step) for step, _ in method.schedule)]
    for stage in stages:
        if stage.fake_score in FAKE_SCORE_REASONS and not (text and stage.fake_score == "lora"):
            return FAKE_SCORE_REASONS[stage.fake_score]
        for name, reason in AUXILIARY_REASONS.items():
            if stage.auxiliary.get(name):
                return reason
        if stage.auxiliary.get("reward") and not has_reward:
            if text:
                return "it needs a reward; set text.reward (clip | aesthetic | FILE.py:FUNCTION)"
            return "it needs a reward, which only Python callers can give: distill(config, reward=...)"
        scales = stage.guidance
        if not text and {scales.teacher, scales.fake, scales.fake_train} != {1.0}:
            return (
                "it needs classifier-free guidance, and EDM networks have no unconditional branch; "
                "guidance_teacher=1 guidance_fake=1 guidance_fake_train=1 do without"
            )
    return None


def applicable(has_reward: bool = False, text: bool = False) -> list[str]:
    """Names of the rows that apply as they are."""
    return [name for name, row in METHODS.items() if reason_against(row, has_reward, text) is None]


def one_step_method(spec: str | Mapping[str, Any] | Method, has_reward: bool = False, text: bool = False) -> Method:
    """The method that `method:` of a configuration asks for.

    Args:
        spec: name, {name: …, option: …}, or a ready row.
        has_reward: a reward is given.
        text: the teacher draws from prompts, so that guidance and LoRA are at hand.
    Raises:
        ValueError: unknown name or option, or a row that does not apply; with the reason and the choices.
    """
    if isinstance(spec, Method):
        method = spec
    else:
        block = {"name": spec} if isinstance(spec, str) else _block(spec)
        check(RANGES, block, "method.")
        if "name" not in block:
            raise ValueError(f"method.name is missing; choose one of {', '.join(applicable(has_reward, text))}")
        try:
            method = get_method(**block)
        except (TypeError, ValueError) as error:
            raise ValueError(f"method: {error}") from error
    reason = reason_against(method, has_reward, text)
    if reason:
        raise ValueError(
            f"method={method.name!r} does not apply to one-step distillation: {reason}; choose one of "
            f"{', '.join(applicable(has_reward, text))}"
        )
    return method


def _block(spec: Any) -> dict[str, Any]:
    if not isinstance(spec, Mapping):
        raise ValueError(f"method={shown(spec)} must be the name of a method or a mapping {{name: …, option: …}}")
    return {str(key): value for key, value in spec.items()}
