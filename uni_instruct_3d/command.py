"""How every command of ours takes its options and ends: status 0, or one line about what the user can mend and 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from uni_instruct_guidance.core.errors import one_line, require_writable
from uni_instruct_guidance.core.ranges import argument, number, whole

#: Types of options, for `type=` of argparse: every number of a command line has one.
COUNT, INDEX = argument(whole(least=1)), argument(whole(least=0))
#: Sides of pictures, in pixels: beyond that no machine holds the pictures.
PIXELS = argument(whole(least=1, most=8192))
POSITIVE = argument(number(above=0), float)
SCALE = argument(number(least=0), float)
SEED = argument(whole(least=0, most=2**32 - 1))

#: What a mistake of a user raises; anything else is a bug and keeps its traceback.
MISTAKES = (ValueError, OSError, OmegaConfBaseException, YAMLError)


def run_command(
    name: str, call: Callable[[], int | None], place: Path | None = None, stopped: str | None = None
) -> int:
    """Exit status of `call`; 2 after one line where it raises one of `MISTAKES`.

    Args:
        name: in front of the line.
        place: where the command writes, for errors that do not name a file (a full disk in the middle of a file).
        stopped: what Ctrl-C leaves behind, in words: then it ends with one line that says so, and 1.
    """
    try:
        return call() or 0
    except KeyboardInterrupt:
        if stopped is None:
            raise
        print(f"{name}: stopped; {stopped}")
        return 1
    except MISTAKES as error:
        print(f"{name}: {one_line(error, place)}", file=sys.stderr)
        return 2


def device(text: str) -> str:
    """A device of this machine, for `type=` of argparse."""
    import torch

    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has no one type for it
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used here ({reason}); cpu always can") from error
    return text


def require_file_place(option: str, path: Path | None) -> None:
    """The folder of a file that will be written, tried out before the work.

    Raises:
        ValueError: with option, path and reason.
    """
    if path is not None:
        if path.is_dir():
            raise ValueError(f"{option}={str(path)!r} is a folder; give a file")
        require_writable(f"{option}: the folder of {path.name}", path.absolute().parent)
