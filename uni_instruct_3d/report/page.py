"""The page itself: HTML with everything embedded, so that it opens offline from anywhere."""

from __future__ import annotations

import base64
import html
import mimetypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from uni_instruct_guidance.core.files import atomically

from .charts import charts, summary
from .collect import StageResult

STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); } h3 { font-size: 1rem; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
iframe { border: 1px solid var(--line); width: 520px; height: 520px; max-width: 100%; background: #fff; }
video, .turntable { width: 520px; max-width: 100%; }
.pictures img { height: 180px; max-width: 100%; object-fit: contain; image-rendering: auto; }
.chart svg { max-width: 100%; height: auto; background: #fff; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; } th { color: var(--dim); font-weight: normal; }
pre { overflow: auto; max-height: 30rem; padding: .8rem; border: 1px solid var(--line); }
p.note { border-left: 4px solid #c80; padding-left: .6rem; }
small, figcaption { color: var(--dim); } figure { margin: 0; }
"""


QUOTE = '"'
BRIGHTER = {
    "scene.add(tracklight);": "scene.add(tracklight);scene.add(new THREE.HemisphereLight(0xffffff,0x999999,1.8));",
    "renderer.setPixelRatio(": "renderer.outputEncoding=THREE.sRGBEncoding;renderer.setPixelRatio(",
}
"""Changes to the viewer's script: it has one lamp at the camera, and shows linear light as if it were sRGB."""


def write_report(
    stages: Sequence[StageResult],
    out_html: str | os.PathLike,
    title: str | None = None,
    notes: Sequence[str] = (),
    facts: Mapping[str, float] | None = None,
    mesh: Path | None = None,
    turntable: Path | None = None,
    before_after: Path | None = None,
    files: Sequence[Path] = (),
) -> Path:
    """Write the report of a run; the file is either complete or absent.

    Args:
        stages: in order; the last mesh and the last turntable among them are shown on top.
        title: heading; the prompt by default.
        notes: lines that a person should read. facts: what was measured of the asset.
        mesh, turntable: shown on top instead of the stages' own. before_after: picture of an edited asset, before above
            after. files: results of the whole run, listed with their
            sizes.

    Raises:
        ValueError: no stages.
    """
    if not stages:
        raise ValueError("a report needs at least one stage")
    title = title or next((stage.prompt for stage in reversed(stages) if stage.prompt), "") or "Result"
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p class='note'>{html.escape(note)}</p>" for note in notes),
        _overview(stages, mesh, turntable),
        _before_after(before_after) if before_after else "",
        _facts(facts or {}, files),
        *(_stage(stage) for stage in stages),
        "</body></html>",
    ]
    out = Path(out_html)
    atomically(out, lambda partial: partial.write_text("\n".join(parts), encoding="utf-8"))
    return out


def viewer(glb: Path) -> str:
    """An <iframe> in which the mesh can be turned.

    Raises:
        ValueError: the file is damaged.
    """
    return f'<iframe class="viewer" title="3D view" srcdoc="{viewer_page(glb).replace(QUOTE, "&quot;")}"></iframe>'


def viewer_page(glb: Path) -> str:
    """A page in which the mesh can be turned; three.js comes along (trimesh's notebook viewer).

    Raises:
        ValueError: the file is damaged.
    """
    import trimesh
    from trimesh.viewer.notebook import scene_to_html

    try:
        scene = trimesh.load_scene(glb, process=False)
    except Exception as error:  # whatever a parser of a damaged file stumbles over
        raise ValueError(f"{glb}: cannot be read as a mesh: {type(error).__name__}: {error}") from error
    for geometry in scene.geometry.values():
        colours = getattr(geometry.visual, "vertex_attributes", {})
        if "color" in colours and colours["color"].dtype == np.uint16:  # which trimesh would write as their low bytes
            colours["color"] = (colours["color"] // 257).astype(np.uint8)
    page = scene_to_html(scene)
    for found, better in BRIGHTER.items():
        page = page.replace(found, better)
    return page


def _before_after(path: Path) -> str:
    return (
        f"<figure><img style='max-width: 100%' alt='before and after' src='{data_uri(path)}'>"
        "<figcaption>above: before the edit; below: after</figcaption></figure>"
    )


def _facts(facts: Mapping[str, float], files: Sequence[Path]) -> str:
    parts = []
    if facts:
        parts.append("<h3>Mesh</h3>" + html_table(("measured", "value"), [(k, f"{v:.3g}") for k, v in facts.items()]))
    if files:
        rows = [(_name(path), f"{path.stat().st_size / 1024:.0f} KiB") for path in files]
        parts.append("<h3>Files</h3>" + html_table(("file", "size"), rows, escaped=True))
    return "".join(parts)


def _overview(stages: Sequence[StageResult], mesh: Path | None = None, turntable: Path | None = None) -> str:
    meshes = [mesh] if mesh else [path for stage in stages for path in stage.meshes]
    turntables = [turntable] if turntable else [stage.turntable for stage in stages if stage.turntable]
    parts = ["<div class='row'>"]
    if meshes:
        parts.append(f"<figure>{viewer(meshes[-1])}<figcaption>{_name(meshes[-1])}: drag to turn, scroll to zoom")
        parts.append("</figcaption></figure>")
    if turntables:
        parts.append(f"<figure>{_moving(turntables[-1])}<figcaption>{_name(turntables[-1])}</figcaption></figure>")
    parts.append("</div>")
    if not meshes:
        parts.append("<p><small>No mesh was exported.</small></p>")
    timed = [stage for stage in stages if stage.seconds is not None]
    if timed:
        rows = [(stage.name, _duration(stage.seconds)) for stage in timed]
        rows.append(("together", _duration(sum(stage.seconds for stage in timed))))
        parts.append("<h3>Time</h3>" + html_table(("stage", "time"), rows))
    scored = [(stage.name, name, f"{value:.4g}") for stage in stages for name, value in stage.scores.items()]
    if scored:
        parts.append("<h3>Scores</h3>" + html_table(("stage", "score", "value"), scored))
    return "".join(parts)


def _stage(stage: StageResult) -> str:
    parts = [f"<h2>{html.escape(stage.name)}</h2>"]
    if stage.pictures:
        images = [f"<img alt='{_name(path)}' title='{_name(path)}' src='{data_uri(path)}'>" for path in stage.pictures]
        parts.append(f"<div class='row pictures'>{''.join(images)}</div>")
    for heading, svg in charts(stage.curves):
        parts.append(f"<h3>{heading}</h3><div class='chart'>{svg}</div>")
    statistics = summary(stage.curves)
    if statistics:
        rows = [(name.removeprefix("train/"), *(f"{value:.4g}" for value in values)) for name, *values in statistics]
        parts.append(html_table(("density ratio", "mean of last tenth", "last", "lowest", "highest"), rows))
    if stage.files:
        rows = [(_name(path), f"{path.stat().st_size / 1024:.0f} KiB") for path in stage.files]
        parts.append("<h3>Files</h3>" + html_table(("file", "size"), rows, escaped=True))
    if stage.settings:
        parts.append(f"<details><summary>Settings</summary><pre>{html.escape(stage.settings)}</pre></details>")
    return "".join(parts)


def _moving(path: Path) -> str:
    if path.suffix == ".gif":
        return f"<img class='turntable' alt='turntable' src='{data_uri(path)}'>"
    return f"<video class='turntable' controls autoplay loop muted playsinline src='{data_uri(path)}'></video>"


def data_uri(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _name(path: Path) -> str:
    return html.escape(path.name, quote=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], escaped: bool = False) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{c if escaped else html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return f"<table>{line('th', header)}{''.join(line('td', row) for row in rows)}</table>"
