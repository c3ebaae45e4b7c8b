"""Which values a key may have: one row of a table per key, and one sentence when a value is none of them.

A table is a nested mapping, key ↦ `Allowed` or table; a key with `*` stands for all that it matches. The tables lie
beside what they describe (`objective.py`, `methods.py`, `systems/ranges.py`, `distill2d/config.py`); command lines use
`argument`. Nothing else checks a number's size.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, Union

#: OmegaConf's mark of a value that is still to be given; who needs it complains.
MISSING = "???"


@dataclass(frozen=True)
class Allowed:
    """One row.

    Attributes:
        words: completes "must be …".
        holds: value ↦ whether it is allowed; never raises.
    """

    words: str
    holds: Callable[[Any], bool]

    def check(self, key: str, value: Any) -> None:
        """Raises ValueError with key, value and what is allowed."""
        if not self.holds(value):
            raise ValueError(f"{key}={shown(value)} must be {self.words}")


Table = Mapping[str, Union[Allowed, "Table"]]


def check(table: Table, values: Any, prefix: str = "") -> None:
    """Refuse the first value that its row does not allow; keys without a row are somebody else's.

    Args:
        values: mapping or dataclass, nested as the table is; plain containers.
        prefix: of the keys in messages, such as `system.guidance.`.

    Raises:
        ValueError: key, value and what is allowed.
    """
    for key, value in _items(values):
        row, name = _row(table, str(key)), f"{prefix}{key}"
        if row is None or _is_missing(value):
            continue
        if isinstance(row, Allowed):
            row.check(name, value)
        elif isinstance(value, Mapping) or dataclasses.is_dataclass(value):
            check(row, value, f"{name}.")
        elif value is not None:
            raise ValueError(f"{name}={shown(value)} must be a mapping of {', '.join(row)}")


def argument(row: Allowed, kind: type = int) -> Callable[[str], Any]:
    """The row as a `type=` of argparse: text ↦ checked number of that kind."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = text
        if not row.holds(value):
            raise argparse.ArgumentTypeError(f"{shown(value)} must be {row.words}")
        return value

    return parse


def shown(value: Any, longest: int = 80) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _items(values: Any) -> list[tuple[Any, Any]]:
    if isinstance(values, Mapping):
        return list(values.items())
    return [(field.name, getattr(values, field.name)) for field in dataclasses.fields(values)]


def _row(table: Table, key: str) -> Allowed | Table | None:
    if key in table:
        return table[key]
    return next((row for pattern, row in table.items() if "*" in pattern and fnmatchcase(key, pattern)), None)


def _is_missing(value: Any) -> bool:
    return isinstance(value, str) and value == MISSING


# --- rows -------------------------------------------------------------------------------------------------------------


def number(
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    whole: bool = False,
) -> Allowed:
    """A finite number, a whole one if asked, between bounds that are included (least, most) or not (above, below)."""
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    given = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
    kind = "a whole number" if whole else "a finite number"

    def holds(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            return False
        return (
            math.isfinite(value)
            and (least is None or value >= least)
            and (above is None or value > above)
            and (most is None or value <= most)
            and (below is None or value < below)
        )

    return Allowed(f"{' and '.join(given)} ({kind})" if given else kind, holds)


def whole(least: int | None = None, most: int | None = None) -> Allowed:
    """A whole number."""
    return number(least=least, most=most, whole=True)


def or_null(row: Allowed) -> Allowed:
    """The row's values, and none."""
    return Allowed(f"{row.words}, or null", lambda value: value is None or row.holds(value))


def either(first: Allowed, second: Allowed) -> Allowed:
    """What one of two rows allows."""
    return Allowed(f"{first.words}, or {second.words}", lambda value: first.holds(value) or second.holds(value))


def choice(*values: Any) -> Allowed:
    """One of these."""
    return Allowed(f"one of {', '.join(map(str, values))}", lambda value: any(value is v or value == v for v in values))


def text(words: str = "a text", refused: Callable[[str], bool] = lambda value: False) -> Allowed:
    """A text that is not refused."""
    return Allowed(words, lambda value: isinstance(value, str) and not refused(value))


def file_name() -> Allowed:
    """A text that names a file in a folder and leads nowhere else."""
    return text("a file name without '..' and not absolute", lambda v: not v or ".." in v or v.startswith(("/", "\\")))


def several(row: Allowed, count: int | None = None, least: int = 0) -> Allowed:
    """A list of the row's values, of one length if given."""
    length = "a list" if count is None else f"a list of {count}"

    def holds(value: Any) -> bool:
        if not isinstance(value, (list, tuple)) or len(value) < least:
            return False
        return (count is None or len(value) == count) and all(map(row.holds, value))

    return Allowed(f"{length}, each {row.words}", holds)


def ascending(row: Allowed) -> Allowed:
    """Two of the row's values, the second not below the first."""
    two = several(row, 2)
    words = f"two numbers [low, high] with low <= high, each {row.words}"
    return Allowed(words, lambda value: two.holds(value) and value[0] <= value[1])


def one_or_several(row: Allowed) -> Allowed:
    """A value, or a list of at least one."""
    return either(row, several(row, least=1))


def scheduled(row: Allowed, ever_above: float | None = None) -> Allowed:
    """A value, or threestudio's schedule over steps whose values all are the row's.

    `ever_above`: at least one of its values must be above this: a learning rate of 0 for ever trains nothing.
    """
    step = number(least=0)

    def values_of(value: Any) -> list | None:
        if not isinstance(value, (list, tuple)):
            return [value] if row.holds(value) else None
        points = [0, *value] if len(value) == 3 else list(value)
        if len(points) < 4 or len(points) % 2:
            return None
        steps, values = [points[0], *points[3::2]], [points[1], *points[2::2]]
        increasing = all(map(step.holds, steps)) and all(a < b for a, b in pairwise(steps))
        return values if increasing and all(map(row.holds, values)) else None

    def holds(value: Any) -> bool:
        values = values_of(value)
        return values is not None and (ever_above is None or max(values) > ever_above)

    more = "" if ever_above is None else f" and not {ever_above} throughout"
    words = f"{row.words}{more}, or a schedule of such values: [start_step, start, end, end_step] with increasing steps"
    return Allowed(words, holds)


def _is_devices(value: Any) -> bool:
    if isinstance(value, str):
        return value == "auto" or all(part.strip().isdigit() for part in value.split(","))
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(whole(least=0).holds, value))
    return value is None or value == -1 or whole(least=1).holds(value)


# Lightning's arguments that both trainers pass on and that it takes without a look or refuses without their names.
_SHARE = or_null(either(whole(least=0), number(least=0, most=1)))
TRAINER = {
    "max_steps": whole(least=1),
    "min_steps": or_null(whole(least=0)),
    "max_epochs": or_null(either(choice(-1), whole(least=1))),
    "min_epochs": or_null(whole(least=0)),
    "accumulate_grad_batches": whole(least=1),
    "val_check_interval": or_null(either(whole(least=1), number(above=0, most=1))),
    "check_val_every_n_epoch": or_null(whole(least=1)),
    "num_sanity_val_steps": or_null(whole(least=-1)),
    "log_every_n_steps": or_null(whole(least=0)),
    "gradient_clip_val": or_null(number(least=0)),
    "limit_*_batches": _SHARE,
    "overfit_batches": _SHARE,
    "num_nodes": whole(least=1),
    "devices": Allowed("at least 1 (a whole number), -1 for all, a list of device numbers, or auto", _is_devices),
    "logger": or_null(choice(True, False)),
}
