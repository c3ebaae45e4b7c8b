"""One self-contained HTML page from the trial folders of a run, in the order given.

    python scripts/report.py outputs/a-red-mug/nerf outputs/a-red-mug/geometry outputs/a-red-mug/texture

The page holds the exported mesh in a 3D view, the turntable, the last pictures, the curves and the settings of every
stage; it needs no network and no other file. It is written to `report.html` beside the first folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import _environment  # noqa: F401

from uni_instruct_3d.command import require_file_place, run_command
from uni_instruct_3d.help import Help
from uni_instruct_3d.report import read_stage, write_report


def main(arguments: list[str] | None = None) -> int:
    """Write the report, say where; 2 after one line about a file that cannot be read or written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("trials", nargs="+", type=Path, metavar="TRIAL_DIR", help="folder with configs/ and save/")
    parser.add_argument("--out", type=Path, help="HTML file; report.html beside the first folder by default")
    parser.add_argument("--title", help="heading; the prompt by default")
    args = parser.parse_args(arguments)
    out = args.out or args.trials[0].resolve().parent / "report.html"

    def report() -> None:
        require_file_place("--out", out)
        print(write_report([read_stage(trial) for trial in args.trials], out, title=args.title))

    return run_command("report", report, out)


if __name__ == "__main__":
    sys.exit(main())
