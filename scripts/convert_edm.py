"""Turn a published EDM pickle into safetensors, without running anything that is in the pickle.

    python scripts/convert_edm.py edm-cifar10-32x32-cond-vp.pkl load/edm/cifar10-cond.safetensors

The network in the pickle is checked against the architecture tensor by tensor; what does not belong to an EDM network
is refused by its name. The result loads with `teachers.edm.load_edm`, which needs no preset for it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import _environment  # noqa: F401

from uni_instruct_3d.help import Help
from uni_instruct_guidance.core.errors import one_line
from uni_instruct_guidance.teachers.edm import CheckpointError
from uni_instruct_guidance.teachers.edm.convert import convert_edm


def main(arguments: list[str] | None = None) -> int:
    """Convert one file; 0 on success, 1 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("pickle", type=Path, help="published .pkl file")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    args = parser.parse_args(arguments)
    if args.out.suffix != ".safetensors":
        parser.error(f"OUT must end in .safetensors, got {args.out}")
    if args.out.exists() and not args.force:
        parser.error(f"{args.out} exists; --force replaces it")
    try:
        result = convert_edm(args.pickle, args.out)
    except (CheckpointError, OSError) as error:
        print(f"error: {one_line(error, args.out)}", file=sys.stderr)
        return 1
    print(f"{args.out}: {result}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
