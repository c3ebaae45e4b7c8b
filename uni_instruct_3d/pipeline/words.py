"""Words of a prompt that the teacher has never seen."""

from __future__ import annotations

from .settings import Settings

TEACHER = "system.prompt_processor.pretrained_model_name_or_path="


def note(settings: Settings) -> str:
    """One line about the words that the built-in teachers do not know; empty where there are none, or where the
    teacher is another one, whose words nobody knows."""
    built_in = settings.config_set.startswith("shapes")
    if not built_in or any(override.startswith(TEACHER) for override in settings.overrides):
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
