"""What a person should read before the work begins: words that the teacher has never seen, a teacher out of place."""

from __future__ import annotations

from .settings import Settings
from .stages import DEFAULT_SET

TEACHER = "system.prompt_processor.pretrained_model_name_or_path="
#: For whom brings a teacher along.
OF_ONES_OWN = "sd21 (Stable Diffusion), mvdream (its kind), shapes (small, 64²) or shapes128"


def note(settings: Settings) -> str:
    """One line about the words that the built-in teachers do not know, or about a teacher of one's own with settings
    that are made for four views at once; else empty: nobody knows the words of other teachers."""
    if any(override.startswith(TEACHER) for override in settings.overrides):
        if settings.config_set != DEFAULT_SET:
            return ""
        return f"{DEFAULT_SET} is made for its teacher of four views; for yours: --config-set {OF_ONES_OWN}"
    if not settings.config_set.startswith("shapes"):
        return ""
    from ..shapes_world.words import unknown_words

    unknown = unknown_words(settings.prompt)
    if not unknown:
        return ""
    named = [f"{word} (nearest: {', '.join(near)})" if near else word for word, near in unknown.items()]
    return f"the teacher does not know: {', '.join(named)}; --list-words names what it knows"


def vocabulary() -> str:
    """The built-in teacher's words, for the terminal."""
    from ..shapes_world import CLASSES, COLORS, PATTERNS

    groups = {"objects": CLASSES, "colours": COLORS, "patterns": PATTERNS[1:]}
    return "\n".join(f"{name}: {', '.join(words)}" for name, words in groups.items())
