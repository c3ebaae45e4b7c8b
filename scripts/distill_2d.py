"""Distil an EDM teacher into a one-step generator.

    python scripts/distill_2d.py --config configs/distill2d/digits-cond.yaml
    python scripts/distill_2d.py --config configs/distill2d/digits-cond.yaml method.divergence=fkl out=outputs/fkl
    torchrun --nproc_per_node=8 scripts/distill_2d.py --config configs/distill2d/cifar10-uncond.yaml

The same command goes on where a run was stopped. Keys: docs/distill2d.md.
"""

from __future__ import annotations

import sys

import _environment  # noqa: F401

import uni_instruct_3d.world_data  # noqa: F401  the row `shapes` of the data sets
from uni_instruct_guidance.distill2d.cli import main
from uni_instruct_guidance.distill2d.trainer import DistillConfig, distill

if __name__ == "__main__":
    sys.exit(main(DistillConfig, distill, __doc__, None))
