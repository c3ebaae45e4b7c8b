"""One HTML page: the tables, then pictures with methods side by side and prompts below each other."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from ..report.page import STYLE, data_uri, html_table
from .matrix import Cell, Column
from .table import BACKBONE_TITLES, Results, Table, failures

EXTRA_STYLE = """
body { max-width: none; } .scroll { overflow-x: auto; } .scroll table td, .scroll table th { white-space: nowrap; }
.pictures td { vertical-align: top; padding: .2rem .5rem .6rem 0; } .pictures img { height: 72px; display: block; }
.pictures small { display: block; }
"""


def write_page(
    path: Path,
    title: str,
    notes: Sequence[str],
    tables: Sequence[Table],
    results: Results,
    columns: Sequence[Column],
    backbones: Sequence[str],
) -> Path:
    """Write the page; everything is embedded, so that it opens offline from anywhere.

    Args:
        notes: lines under the title: what was compared, and with which scorer.
    """
    from threestudio.utils.files import atomic_path

    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>{html.escape(title)}</title><style>{STYLE}{EXTRA_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p>{html.escape(note)}</p>" for note in notes),
    ]
    for table in tables:
        parts.append(f"<h3>{html.escape(table.title)}</h3>")
        parts.append(f"<div class='scroll'>{html_table(table.header, table.rows)}</div>")
    for backbone in backbones:
        parts.append(f"<h2>{BACKBONE_TITLES[backbone]}</h2>{_pictures(path.parent, results, columns, backbone)}")
    failed = failures(results)
    if failed:
        rows = [(cell.column.title, cell.prompt, str(cell.seed), reason) for cell, reason in failed]
        parts.append("<h2>Failed</h2>" + html_table(("method", "prompt", "seed", "reason"), rows))
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join([*parts, "</body></html>"]), encoding="utf-8")
    return path


def _pictures(out: Path, results: Results, columns: Sequence[Column], backbone: str) -> str:
    """Front, side, back and three-quarter view of every cell: a row per prompt and seed, a column per method."""
    rows = [["", *(html.escape(column.title) for column in columns)]]
    for prompt, seed in dict.fromkeys((cell.prompt, cell.seed) for cell in results):
        row = [f"{html.escape(prompt)}<small>seed {seed}</small>"]
        row += [_picture(out, results.get(Cell(column, prompt, seed)), backbone) for column in columns]
        rows.append(row)
    return f"<div class='scroll pictures'>{html_table(rows[0], rows[1:], escaped=True)}</div>"


def _picture(out: Path, result: dict | None, backbone: str) -> str:
    if result is None:
        return "<small>not run</small>"
    picture = result["pictures"].get(backbone)
    if picture is None:
        return f"<small>{html.escape(result['status'])}</small>"
    clip = result["scores"][backbone]["clip_x100"]
    return f"<img alt='views' src='{data_uri(out / picture)}'><small>3D-CLIP {clip:.1f}</small>"
