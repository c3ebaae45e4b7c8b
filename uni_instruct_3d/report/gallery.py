"""One page over many runs: a picture of each with its scores, and the way to its report."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from .page import STYLE

#: Of the scores, in this order, under these names.
SHOWN = {"clip_x100": "CLIP", "class": "class", "color": "colour", "view": "view", "iou": "IoU", "f_score": "F-score"}
WIDTH = 640


@dataclass(frozen=True)
class Card:
    """A run on the page. error: why there is no result, else empty. best: of the seeds of its prompt."""

    prompt: str
    seed: int
    folder: Path
    scores: dict[str, float]
    error: str = ""
    best: bool = False
    notes: tuple[str, ...] = ()


def write_gallery(cards: Sequence[Card], path: Path) -> Path:
    """Write the page beside the folders of the runs, whole or not at all; pictures are in it, reports are linked."""
    failed = sum(bool(card.error) for card in cards)
    style = ".card { width: 320px; } .card img { width: 100%; } .best { outline: 3px solid #2a7; }"
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Gallery</title>",
        f"<style>{STYLE}{style}</style></head><body><h1>{len(cards)} runs{f', {failed} failed' if failed else ''}</h1>",
        "<div class='row'>", *(_card(card, path.parent) for card in cards), "</div></body></html>",
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        scratch.write_text("\n".join(parts), encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def _card(card: Card, home: Path) -> str:
    report = card.folder / "report.html"
    title = f"{html.escape(card.prompt)} <small>seed {card.seed}{', the best' if card.best else ''}</small>"
    if report.is_file():
        target = quote(os.path.relpath(report.resolve(), home.resolve()))
        title = f"<a href='{html.escape(target, quote=True)}'>{title}</a>"
    scores = ", ".join(f"{name} {card.scores[key]:.3g}" for key, name in SHOWN.items() if key in card.scores)
    lines = [f"failed: {card.error}"] if card.error else [scores, *card.notes]
    text = "".join(f"<br><small>{html.escape(line)}</small>" for line in lines if line)
    mark = " best" if card.best else ""
    return f"<figure class='card{mark}'>{_picture(card.folder)}<figcaption>{title}{text}</figcaption></figure>"


def _picture(folder: Path) -> str:
    path = folder / "preview.png"
    if not path.is_file():
        return ""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((WIDTH, WIDTH))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return f"<img alt='four views' src='data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}'>"
