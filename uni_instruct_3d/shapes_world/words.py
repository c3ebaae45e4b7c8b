"""Which words the captions of the world use: the built-in teacher has learned these and no others."""

from __future__ import annotations

import difflib
import re
from functools import cache

from .palette import COLORS, PATTERNS
from .vocabulary import KIND_SUFFIX, OBJECT_CLASSES, PREFIXES, VIEWS


@cache
def known_words() -> frozenset[str]:
    """Every word of every caption, in small letters."""
    # "plain" goes unsaid in captions
    texts = [*OBJECT_CLASSES, *COLORS, *PATTERNS[1:], *VIEWS, *PREFIXES, *KIND_SUFFIX, "a an the view"]
    texts += [row.prompt for row in OBJECT_CLASSES.values()]
    return frozenset(word for text in texts for word in _words(text))


def unknown_words(prompt: str) -> dict[str, list[str]]:
    """Word of the prompt that no caption has -> the most similar known ones, at most three, the best first."""
    known = known_words()
    return {
        word: difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.7)
        for word in dict.fromkeys(_words(prompt))
        if word not in known
    }


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
