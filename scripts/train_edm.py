"""Train an EDM network on images, to serve as a teacher for distill_2d.py.

    python scripts/train_edm.py --config configs/distill2d/teacher-digits-cond.yaml

The same command goes on where a run was stopped; the network is <out>/network.safetensors. Keys: docs/distill2d.md.
"""

from __future__ import annotations

import sys

import _environment  # noqa: F401

import uni_instruct_3d.world_data  # noqa: F401  the row `shapes` of the data sets
from uni_instruct_guidance.distill2d.cli import main
from uni_instruct_guidance.distill2d.trainer import EDMConfig, train_edm

if __name__ == "__main__":
    sys.exit(main(EDMConfig, train_edm, __doc__, None))
