"""The table of docs/editing.md: DDS beside SDS, RED-diff beside DPS and the pseudo-inverse, on the same pictures.

    python scripts/editing_table.py edit --pictures 50
    python scripts/editing_table.py world --tasks inpaint super-resolution --methods red_diff pseudo_inverse
    python scripts/editing_table.py digits

What is stored below --out is not made again; the table says what is there.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from ..command import COUNT, require_file_place, run_command
from ..help import Help

NAME = "editing_table"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="editing_table.py", description=__doc__, formatter_class=Help)
    parser.add_argument("what", nargs="+", choices=("edit", "world", "digits"))
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="of the restorations; else all five")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="else every one")
    parser.add_argument("--pictures", type=COUNT, default=50, metavar="N", help="of each kind")
    parser.add_argument("--steps", type=COUNT, metavar="N", help="else 40 for edits, 80 for restorations")
    parser.add_argument("--out", type=Path, default=Path("outputs/editing"), metavar="FOLDER")
    return parser


def main(argv: list[str] | None = None) -> int:
    """0; 1 after Ctrl-C; 2 after one line about what the user can mend."""
    args = make_parser().parse_args(argv)
    return run_command(NAME, partial(_table, args), args.out, stopped="what is finished is kept")


def _table(args: argparse.Namespace) -> None:
    from uni_instruct_guidance.core.errors import choose
    from uni_instruct_guidance.editing.delta import EDITORS

    from .table import METHODS, TASKS, Cell, carry_out, markdown

    require_file_place("--out", args.out / "table.md")
    names = {row: operator for row, (operator, _, _) in TASKS.items()}
    for task in args.tasks or ():
        choose("--tasks", task, dict.fromkeys(names.values()))
    for method in args.methods or ():
        choose("--methods", method, dict.fromkeys([*EDITORS, *METHODS]))
    cells = []
    for what in dict.fromkeys(args.what):
        editing = what == "edit"
        methods = [name for name in (EDITORS if editing else METHODS) if not args.methods or name in args.methods]
        tasks = [""] if editing else [row for row, name in names.items() if not args.tasks or name in args.tasks]
        cells += [Cell(what, task, name, args.steps or (40 if editing else 80)) for task in tasks for name in methods]
    rows = []
    for cell in cells:
        print(f"{NAME}: {cell.name}", flush=True)
        rows.append((cell, carry_out(cell, args.pictures, args.out)))
    text = markdown(rows)
    (args.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
