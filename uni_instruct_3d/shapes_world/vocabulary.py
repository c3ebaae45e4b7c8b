"""Classes, captions, view words and the held-out combinations."""

import zlib
from collections.abc import Callable
from typing import NamedTuple

from . import creatures, household, outdoors
from .palette import COLORS, PATTERNS
from .sketch import Sketch

VIEWS = ("front", "side", "back", "overhead")
KIND_SUFFIX = ("", ", normal map", ", grey render")
PREFIXES = ("a photo of ", "a 3d render of ", "a DSLR photo of ", "a high-quality photo of ")


class ObjectClass(NamedTuple):
    """One class: its name in captions, the function that draws it, whether front, side and back differ, and for the
    classes named by a fixed prompt that prompt with the colours and patterns it stands for."""

    name: str
    draw: Callable[[Sketch], None]
    has_views: bool
    prompt: str = ""
    prompt_colors: tuple[str, ...] = ()
    prompt_patterns: tuple[str, ...] = ()


_TABLE = (
    ObjectClass("mug", household.mug, True),
    ObjectClass("teapot", household.teapot, True),
    ObjectClass("chair", household.chair, True),
    ObjectClass("armchair", household.armchair, True),
    ObjectClass("television", household.television, True),
    ObjectClass("clock", household.clock, True),
    ObjectClass("boot", household.boot, True),
    ObjectClass("house", outdoors.house, True),
    ObjectClass("rocket", outdoors.rocket, True),
    ObjectClass("car", outdoors.car, True),
    ObjectClass("robot", creatures.robot, True),
    ObjectClass("snowman", creatures.snowman, True),
    ObjectClass("cat", creatures.cat, True),
    ObjectClass("sleeping cat", creatures.sleeping_cat, True, "A sleeping cat", ("orange",), ("striped",)),
    ObjectClass("bunny", creatures.bunny, True),
    ObjectClass(
        "bunny on pancakes",
        creatures.bunny_on_pancakes,
        True,
        "A baby bunny sitting on top of a stack of pancakes",
        ("brown",),
        ("plain",),
    ),
    ObjectClass(
        "vase", household.vase, False, "A refined vase with artistic patterns", ("blue",), ("striped", "dotted")
    ),
    ObjectClass("table", household.table, False),
    ObjectClass("lamp", household.lamp, False),
    ObjectClass("barrel", household.barrel, False),
    ObjectClass("mushroom", outdoors.mushroom, False),
    ObjectClass("tree", outdoors.tree, False),
    ObjectClass("cactus", outdoors.cactus, False),
    ObjectClass("donut", outdoors.donut, False),
    ObjectClass("cake", outdoors.cake, False),
    ObjectClass("ice cream cone", outdoors.cone, False),
    ObjectClass(
        "ice cream sundae",
        outdoors.sundae,
        False,
        "A high-quality photo of an ice cream sundae",
        ("pink",),
        ("plain",),
    ),
    ObjectClass("rose", outdoors.rose, False, "A thorny rose", ("red",), ("plain",)),
)
OBJECT_CLASSES: dict[str, ObjectClass] = {row.name: row for row in _TABLE}
CLASSES = tuple(OBJECT_CLASSES)
VIEW_CLASSES = tuple(name for name, row in OBJECT_CLASSES.items() if row.has_views)


def choose(key: str, value, choices):
    """`value` where it is one of `choices`; ValueError naming key, value and choices otherwise."""
    if value not in choices:
        raise ValueError(f"{key} is {value!r}; choose one of {', '.join(map(str, choices))}")
    return value


def is_held_out(class_name: str, color: str, pattern: str) -> bool:
    """Whether a combination never occurs in the training split: one tenth of all, fixed for ever.

    Combinations that a fixed prompt stands for are always in training.
    """
    row = OBJECT_CLASSES[choose("class", class_name, CLASSES)]
    choose("color", color, COLORS)
    choose("pattern", pattern, PATTERNS)
    if color in row.prompt_colors and pattern in row.prompt_patterns:
        return False
    return (class_name, color, pattern) in _HELD_OUT


def _held_out_combinations() -> frozenset[tuple[str, str, str]]:
    """Per class the tenth with the smallest checksums, so that every class loses equally many."""
    held_out: set[tuple[str, str, str]] = set()
    for name, row in OBJECT_CLASSES.items():
        free = [
            (name, color, pattern)
            for color in COLORS
            for pattern in PATTERNS
            if not (color in row.prompt_colors and pattern in row.prompt_patterns)
        ]
        free.sort(key=lambda combination: zlib.crc32("/".join(combination).encode()))
        held_out.update(free[: len(COLORS) * len(PATTERNS) // 10])
    return frozenset(held_out)


_HELD_OUT = _held_out_combinations()
HELD_OUT = tuple(sorted(_HELD_OUT))


def prompt(class_name: str, color: str, pattern: str, prefix: str = "") -> str:
    """ "a striped blue mug"; plain goes unsaid. `prefix` ("a photo of ") goes before the article."""
    adjective = "" if pattern == "plain" else f"{pattern} "
    words = f"{adjective}{color} {class_name}"
    article = "an" if words[0] in "aeiou" else "a"
    return f"{prefix}{article} {words}"


def caption(class_name: str, color: str, pattern: str, view: str | None = None, kind: int = 0, prefix: str = "") -> str:
    """A caption as threestudio composes it: "{prompt}, {view} view", then the kind of picture where it is no colour
    render ("normal map" for kind 1, "grey render" for kind 2)."""
    choose("class", class_name, CLASSES)
    choose("color", color, COLORS)
    choose("pattern", pattern, PATTERNS)
    if view is not None:
        choose("view", view, VIEWS)
    choose("kind", kind, range(len(KIND_SUFFIX)))
    return with_view(prompt(class_name, color, pattern, prefix), view, kind)


def with_view(text: str, view: str | None, kind: int = 0) -> str:
    """Any prompt with its view phrase and the kind of picture."""
    return text + ("" if view is None else f", {view} view") + KIND_SUFFIX[kind]


def view_word(azimuth_deg: float, elevation_deg: float) -> str:
    """threestudio's default rule: overhead above 60° elevation, else front or back within 45° (strictly), else side."""
    if elevation_deg > 60.0:
        return "overhead"
    wrapped = (azimuth_deg + 180.0) % 360.0 - 180.0
    if abs(wrapped) < 45.0:
        return "front"
    return "back" if abs(wrapped) > 135.0 else "side"
