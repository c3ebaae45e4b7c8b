"""What the form offers, with one line for each choice; all of it read from where it is decided."""

from __future__ import annotations

import re
from functools import cache

from .. import ROOT
from ..pipeline.settings import Files, Settings
from ..pipeline.stages import DEFAULT_SET, QUALITIES, methods

#: The form's words for "nothing given".
DEFAULT_METHOD, DEFAULT_DIVERGENCE = "the configuration's own", "the method's own"
METHOD_OF_CONFIGURATION = "Uni-Instruct with reverse KL after a warm-up by SDS, in all shipped configurations."
#: Variations asked for at once.
MOST_VARIATIONS = 16


@cache
def method_lines() -> dict[str, str]:
    """Method -> the first sentence of its overlay's first comment."""
    lines = {DEFAULT_METHOD: METHOD_OF_CONFIGURATION}
    for name in methods():
        text = (ROOT / "configs" / "methods" / f"{name}.yaml").read_text(encoding="utf-8")
        comment = " ".join(line.lstrip("# ") for line in re.match(r"(#.*\n)*", text).group(0).splitlines())
        lines[name] = re.split(r"(?<=\.)\s", comment, maxsplit=1)[0]
    return lines


@cache
def divergence_lines() -> dict[str, str]:
    """Divergence -> its name in words."""
    from uni_instruct_guidance.core.divergences import DIVERGENCES

    lines = {DEFAULT_DIVERGENCE: "What the method was published with."}
    for name, row in DIVERGENCES.items():
        needs = "no density ratio is needed" if row.constant_h else "weighs by the density ratio, which a head learns"
        lines[name] = f"{row.title[0].upper()}{row.title[1:]}: {needs}."
    return lines


def quality_lines() -> dict[str, str]:
    """Quality -> what it means."""
    return {name: f"{line[0].upper()}{line[1:]}." for name, line in QUALITIES.items()}


@cache
def takes_divergence(method: str) -> bool:
    """Whether a divergence changes anything in this method."""
    import yaml

    from uni_instruct_guidance.core.methods import METHODS
    from uni_instruct_guidance.core.objective import GRADIENTS

    if method == DEFAULT_METHOD:
        return True
    overlay = yaml.safe_load((ROOT / "configs" / "methods" / f"{method}.yaml").read_text(encoding="utf-8"))
    guidance = overlay["system"]["guidance"]
    row = METHODS[guidance["method"]]
    return GRADIENTS[row.objective.gradient].uses_ratio and "schedule" not in guidance


def settings_of(
    prompt: str, method: str, divergence: str, quality: str, seed: float | None, count: float | None,
    config_set: str = DEFAULT_SET,
) -> list[Settings]:  # fmt: skip
    """Settings of as many variations as asked for, with seeds one after the other.

    Raises:
        ValueError: names the field, its value and the choices.
    """
    first, many = _whole("seed", seed, 0, 2**32 - 1), _whole("variations", count, 1, MOST_VARIATIONS)
    _one_of("method", method, method_lines())
    _one_of("divergence", divergence, divergence_lines())
    overrides: tuple[str, ...] = ()
    if divergence != DEFAULT_DIVERGENCE:
        if not takes_divergence(method):
            raise ValueError(f"method {method} has no divergence to choose; leave it at {DEFAULT_DIVERGENCE!r}")
        overrides = (f"system.guidance.divergence={divergence}",)
    return [
        Settings(
            prompt=prompt,
            seed=first + index,
            method=None if method == DEFAULT_METHOD else method,
            config_set=config_set,
            quality=quality,
            overrides=overrides,
            files=Files(formats=("glb", "obj", "ply")),
        )
        for index in range(many)
    ]


def _whole(key: str, value: float | None, least: int, most: int) -> int:
    if value is None or value != int(value) or not least <= value <= most:
        raise ValueError(f"{key} {value} must be a whole number from {least} to {most}")
    return int(value)


def _one_of(key: str, value: str, choices: dict[str, str]) -> None:
    if value not in choices:
        raise ValueError(f"{key} {value!r}; choices: {', '.join(choices)}")
