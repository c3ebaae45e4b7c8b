"""Everything of ours beside the extension; importing it opens the house: built-in host and extension become importable.

The host is chosen at run time: an installed package may not be called ``threestudio``, so ``portable/`` (the built-in
host and the torch twins of the CUDA libraries) and ``custom/`` (the extension) are put on the path here, and here only.
``launch.py`` imports this package only after it has chosen the built-in host.
"""

from __future__ import annotations

import sys
from pathlib import Path

#: The project's folder.
ROOT = Path(__file__).resolve().parents[1]
__version__ = "0.1.0"

for _folder in (ROOT / "custom", ROOT / "portable"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))


def __getattr__(name: str):
    """``from uni_instruct_3d import TextTo3D``, without loading the pipeline for those who want something else."""
    if name in ("TextTo3D", "Asset", "Run", "Settings"):
        from . import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
