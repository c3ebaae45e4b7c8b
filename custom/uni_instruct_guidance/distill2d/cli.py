"""What scripts/distill_2d.py and scripts/train_edm.py share: arguments, one line per mistake, exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from omegaconf.errors import OmegaConfBaseException

from ..core.errors import one_line
from .base_module import REJECTED
from .config import RunConfig, read_config
from .fit import Result


def main(kind: type[RunConfig], run: Callable[[RunConfig], Result], description: str, argv: list[str] | None) -> int:
    """Read the configuration, run, say where the results are.

    Returns:
        0, or 2 after one line on the standard error about what the user can mend.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True, metavar="FILE",
                        help="YAML file; repeated: later files override earlier ones")  # fmt: skip
    parser.add_argument("--verbose", action="store_true", help="show the traceback of a mistake")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. steps=200 method.divergence=fkl")
    args = parser.parse_intermixed_args(argv)
    first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", 0)))) == 0
    cfg = None
    try:
        cfg = read_config(kind, args.config, args.overrides)
        if cfg.out is None:
            raise ValueError("out is missing: the folder of the results")
        result = run(cfg)
    except (ValueError, OSError, OmegaConfBaseException) as error:
        if args.verbose:
            raise
        if first:
            print(f"error: {one_line(error, cfg and cfg.out)}", file=sys.stderr)
        return 2
    if first:
        counts = {name: count for name, count in result.skipped.items() if count}
        rejected = counts.pop(REJECTED, 0)
        skipped = "".join(f", {count} updates of {name} skipped" for name, count in counts.items())
        skipped += f", {rejected} steps without one finite sample" if rejected else ""
        speed = f"{result.seconds:.0f} s, {result.images_per_second:.0f} images/s"
        print(f"{cfg.steps} steps done, {speed}{skipped}: {cfg.out}")
    return 0
