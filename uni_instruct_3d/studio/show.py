"""Parts of the page as HTML. Everything that a person or a file said is escaped here."""

from __future__ import annotations

import time
from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote

from ..comparison.table import METRICS
from ..pipeline.folder import Progress
from ..pipeline.stages import STAGES
from ..report.collect import Curve
from .library import ZIP, Item, RunItem

WORDS = {
    "waiting": "not started", "queued": "waits for its turn", "starting": "starting", "running": "running",
    "stopped": "stopped", "failed": "failed", "done": "finished", "scoring": "finished, being scored",
}  # fmt: skip
STEPS = [*(stage.name for stage in STAGES), "files"]
#: Download -> what is said about it, in this order.
DOWNLOADS = {
    "model.glb": "for most programs", ZIP: "with material and texture", "model.ply": "vertex colours",
    "model.stl": "shape only", "turntable.mp4": "once around", "report.html": "one offline page",
    "log.txt": "what was said",
}  # fmt: skip


def url(name: str, file: str | None = None, changed: float | None = None) -> str:
    """Address of an item's page, or of one of its files; `changed` makes a browser load it anew."""
    if file is None:
        return f"/?run={quote(name, safe='')}"
    return f"/files/{quote(name)}/{quote(file)}" + (f"?t={changed:.2f}" if changed else "")


def heading(item: Item, state: str) -> str:
    """Prompt, state and settings of an item."""
    return (
        f"<div class='s-head'><h2>{escape(item.title)}</h2>"
        f"<span class='s-state s-{escape(state)}' data-state='{escape(state)}'>{escape(WORDS.get(state, state))}</span>"
        f"<code>{escape(item.name)}</code><p class='s-dim'>{escape(settings_line(item))}</p></div>"
    )


def settings_line(item: Item) -> str:
    """Settings in a few words."""
    if not isinstance(item, RunItem):
        return "a single trial of launch.py"
    settings = item.settings
    parts = [settings.method or "method of the configuration", f"quality {settings.quality}", f"seed {settings.seed}"]
    return " · ".join([*parts, *settings.overrides])


def progress(seen: Progress, state: str) -> str:
    """A bar per stage, time spent and left, notes, the reason of a failure."""
    at = STEPS.index(seen.stage) if seen.stage in STEPS else 0
    bars = []
    for index, name in enumerate(STEPS):
        done = state in ("done", "scoring") or index < at
        share = 1.0 if done else seen.step / seen.steps if index == at and seen.steps else 0.0
        note = f"{seen.step} of {seen.steps} steps" if index == at and seen.steps and not done else ""
        bars.append(
            f"<div class='s-bar'><b>{escape(name)}</b><i><u style='width:{100 * share:.1f}%'></u></i>"
            f"<span>{note}</span></div>"
        )
    said = []
    if seen.seconds:
        said.append(f"{duration(seen.seconds)} so far")
    if state == "running" and seen.seconds_left is not None:
        said.append(f"<b>{duration(seen.seconds_left)} left</b> of {escape(seen.stage)}")
    said += [f"{escape(name)} {value:.3g}" for name, value in seen.losses.items() if state == "running"]
    lines = "".join(f"<p class='s-note'>{escape(note)}</p>" for note in seen.notes)
    if seen.error and state == "failed":
        lines += f"<p class='s-error'>{escape(seen.error)}</p>"
    return f"<div class='s-progress'>{''.join(bars)}<p>{' · '.join(said)}</p>{lines}</div>"


def preview(item: Item) -> str:
    """The newest picture: four views side by side."""
    picture = item.picture
    if picture is None:
        return "<div class='s-preview s-none'>no picture yet</div>"
    changed = picture.stat().st_mtime
    return (
        f"<div class='s-preview'><img alt='four views, as they are now' src='{url(item.name, 'preview.png', changed)}'>"
        "</div>"
    )


def curves(named: dict[str, Curve]) -> str:
    """Losses as small line charts."""
    return f"<div class='s-curves'>{''.join(_curve(name, curve) for name, curve in named.items())}</div>"


def _curve(name: str, curve: Curve, width: int = 200, height: int = 60) -> str:
    steps, values = zip(*curve)
    low, high = min(values), max(values)
    across, up = (steps[-1] - steps[0]) or 1, (high - low) or 1.0
    points = " ".join(
        f"{width * (step - steps[0]) / across:.1f},{height - height * (value - low) / up:.1f}" for step, value in curve
    )
    return (
        f"<figure><svg viewBox='0 -2 {width} {height + 4}' preserveAspectRatio='none'><polyline points='{points}'/>"
        "</svg>"
        f"<figcaption>{escape(name)} <b>{values[-1]:.3g}</b> ({low:.3g} to {high:.3g})</figcaption></figure>"
    )


def results(item: Item, small: bool = False) -> str:
    """Object to turn, turntable, scores, downloads; nothing before there are any."""
    files = item.files
    parts = []
    glb = next((name for name in files if name.endswith(".glb")), None)
    if glb:
        address = f"/view/{quote(item.name)}/{quote(glb)}?t={files[glb].stat().st_mtime:.2f}"
        parts.append(f"<iframe class='s-viewer' title='3D view: drag to turn' src='{address}'></iframe>")
    video = next((name for name in files if name.startswith("turntable.") and not name.endswith(".gif")), None)
    if video:
        address = url(item.name, video, files[video].stat().st_mtime)
        parts.append(f"<video class='s-video' autoplay loop muted playsinline controls src='{address}'></video>")
    scores = getattr(item, "scores", {})
    if scores:
        rows = "".join(f"<tr><td>{escape(title)}</td><td>{text}</td></tr>" for title, text in in_words(scores))
        parts.append(f"<table class='s-scores'>{rows}</table>")
    looks = f"<div class='s-results{' s-small' if small else ''}'>{''.join(parts)}</div>" if parts else ""
    return looks + downloads(item, files)


def downloads(item: Item, files: dict[str, Path]) -> str:
    """Links that save files."""
    offered = {**files, **({ZIP: files["model.obj"]} if "model.obj" in files else {})}
    known = [name for name in DOWNLOADS if name in offered]
    others = [] if isinstance(item, RunItem) else sorted(set(offered) - set(known) - {"preview.png"})
    links = [
        f"<a href='{url(item.name, name)}' download='{escape(_download_name(item, name))}'>{escape(name)}</a>"
        f"<span>{DOWNLOADS.get(name, '')}</span>"
        for name in [*known, *others]
    ]
    return f"<div class='s-downloads'>{''.join(f'<div>{link}</div>' for link in links)}</div>" if links else ""


def _download_name(item: Item, file: str) -> str:
    return f"{item.name.replace('/', '-')}-{file}"


def card(item: Item, state: str) -> str:
    """An item in the gallery."""
    picture = item.picture
    image = (
        f"<img loading='lazy' alt='' src='{url(item.name, 'preview.png', picture.stat().st_mtime)}'>"
        if picture
        else "<div class='s-none'>no picture</div>"
    )
    scores = getattr(item, "scores", {})
    first = next(iter(in_words(scores)), None)
    score = f" · {escape(first[0])} {first[1]}" if first else ""
    return (
        f"<a class='s-card' href='{url(item.name)}'>{image}<b>{escape(item.title)}</b>"
        f"<span class='s-dim'>{escape(settings_line(item))}</span>"
        f"<span class='s-dim'>{escape(WORDS.get(state, state))}{score} · {ago(item.changed)}</span></a>"
    )


def in_words(scores: dict[str, float]) -> list[tuple[str, str]]:
    """(title, number) of each score, as tables of comparisons have them and in their order; others as they are."""
    known = [
        (row.title, f"{row.scale * scores[row.name]:.{row.digits}f}") for row in METRICS if row.name in scores
    ]  # fmt: skip
    names = {row.name for row in METRICS}
    return known + [(name.replace("_", " "), f"{value:.3g}") for name, value in scores.items() if name not in names]


def cards(made: Iterable[str]) -> str:
    """The gallery."""
    text = "".join(made)
    return f"<div class='s-cards'>{text}</div>" if text else "<p class='s-dim'>Nothing here yet.</p>"


def message(text: str, kind: str = "note") -> str:
    """A sentence for the person. kind: note or error."""
    return f"<p class='s-{kind}'>{escape(text)}</p>" if text else ""


def duration(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def ago(then: float) -> str:
    """How long since a time in seconds since 1970, in one unit."""
    seconds = max(0.0, time.time() - then)
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
