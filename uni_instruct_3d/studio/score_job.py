"""Score one finished run: ``python -m uni_instruct_3d.studio.score_job FOLDER``; a process of the queue."""

from __future__ import annotations

import sys

from ..pipeline.run import Run
from ..pipeline.scores import score_run


def main(folder: str) -> int:
    """0, or 2 after one line in the run's log."""
    try:
        score_run(Run.open(folder))
    except ValueError as error:
        print(f"scores: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
