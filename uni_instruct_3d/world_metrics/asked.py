"""What a prompt asks for, in the world's own words."""

from __future__ import annotations

from typing import NamedTuple

from ..shapes_world import CLASSES, COLORS, OBJECT_CLASSES, PATTERNS
from ..shapes_world.vocabulary import PREFIXES


class Asked(NamedTuple):
    """A class and the colours and patterns that count as right; an empty tuple where the prompt leaves it open.

    A prompt with a colour and no pattern asks for a plain object, as in the world's captions.
    """

    class_name: str
    colors: tuple[str, ...]
    patterns: tuple[str, ...]


def asked_by(prompt: str) -> Asked:
    """Read "a striped blue mug", with or without article, prefix ("a photo of") and full stop, or a fixed prompt.

    Raises:
        ValueError: the prompt names no class of the world.
    """
    text = " ".join(prompt.lower().split()).rstrip(".")
    for row in OBJECT_CLASSES.values():
        if row.prompt and text == row.prompt.lower():
            return Asked(row.name, row.prompt_colors, row.prompt_patterns)
    for prefix in PREFIXES:
        text = text.removeprefix(prefix.lower())
    words = text.split()
    if words and words[0] in ("a", "an", "the"):
        words = words[1:]
    patterns, words = _leading(words, PATTERNS)
    colors, words = _leading(words, COLORS)
    class_name = " ".join(words)
    if class_name not in CLASSES:
        raise ValueError(f"prompt {prompt!r} names no object of the built-in world; its classes: {', '.join(CLASSES)}")
    return Asked(class_name, colors, patterns or ((PATTERNS[0],) if colors else ()))


def _leading(words: list[str], choices: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]]:
    """The first word where it is one of the choices, and the rest."""
    return ((words[0],), words[1:]) if words and words[0] in choices else ((), words)
