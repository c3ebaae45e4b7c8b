"""The toy networks of the one-step trainer's tests, also for this folder alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "distill2d"))
