"""The folder of one edit or one restoration: pictures, strip, curve, facts, and one offline page."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from uni_instruct_guidance.core.files import atomically

from ..report.charts import charts
from ..report.page import STYLE, data_uri, html_table
from .pictures import save_picture, save_strip

#: Steps of a curve that are drawn at most.
POINTS = 500


@dataclass
class Entry:
    """One picture of the strip: file name without suffix, words under it, [C, H, W], and its curve if it has one."""

    name: str
    words: str
    picture: Tensor
    curve: Sequence[float] = field(default_factory=list)


def write_results(
    folder: Path, title: str, entries: Sequence[Entry], settings: Mapping[str, Any], facts: Mapping[str, str],
    notes: Sequence[str], quantity: str,
) -> list[Path]:  # fmt: skip
    """Write everything, each file whole or not at all; returns the paths, the page first.

    Args:
        settings: what decides the result; kept as settings.json. facts: name and value for people.
        quantity: what the curves show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for entry in entries:
        path = folder / f"{entry.name}.png"
        save_picture(path, entry.picture)
        written.append(path)
    strip = folder / "strip.png"
    save_strip(strip, [entry.picture for entry in entries])
    record = {"settings": dict(settings), "facts": dict(facts), "notes": list(notes)}
    _text(folder / "settings.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    curves = {f"loss_{entry.name}": _curve(entry.curve) for entry in entries if len(entry.curve) > 1}
    if curves:
        lines = [f"step,{','.join(name.removeprefix('loss_') for name in curves)}"]
        longest = max((list(entry.curve) for entry in entries), key=len)
        for step in range(len(longest)):
            values = [e.curve[step] if step < len(e.curve) else "" for e in entries if len(e.curve) > 1]
            lines.append(",".join(str(value) for value in (step + 1, *values)))
        _text(folder / "curve.csv", "\n".join(lines) + "\n")
        written.append(folder / "curve.csv")
    page = folder / "page.html"
    _text(page, _page(title, strip, entries, curves, settings, facts, notes, quantity))
    return [page, strip, *written]


def print_results(name: str, facts: Mapping[str, str], written: Sequence[Path]) -> None:
    """What a command says at its end: facts, and the files below them."""
    for fact, value in facts.items():
        print(f"{name}: {fact}: {value}")
    for path in written:
        print(f"  {path}")


def _curve(values: Sequence[float]) -> list[tuple[int, float]]:
    every = max(1, len(values) // POINTS)
    return [(step + 1, value) for step, value in enumerate(values) if step % every == 0]


def _page(title, strip, entries, curves, settings, facts, notes, quantity) -> str:
    words = " · ".join(html.escape(entry.words) for entry in entries)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{html.escape(title)}</title><style>{STYLE} .strip {{ max-width: 100%; image-rendering: pixelated; }}",
        f"</style></head><body><h1>{html.escape(title)}</h1>",
        *(f"<p class='note'>{html.escape(note)}</p>" for note in notes),
        f"<figure><img class='strip' alt='{words}' src='{data_uri(strip)}'><figcaption>{words}</figcaption></figure>",
        html_table(("", ""), list(facts.items())),
        *(f"<h3>{html.escape(quantity)}</h3><div class='chart'>{svg}</div>" for _, svg in charts(curves)),
        f"<details><summary>Settings</summary><pre>{html.escape(json.dumps(dict(settings), indent=1))}</pre></details>",
        "</body></html>",
    ]
    return "\n".join(parts)


def _text(path: Path, text: str) -> None:
    atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
