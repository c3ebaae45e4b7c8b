"""Uni-Instruct (arXiv 2505.20755) for threestudio: put this folder into a checkout's custom/ and its names are there.

Where no threestudio host is running, `import uni_instruct_guidance.core` gives the mathematics and needs torch alone.
"""

import sys

if "threestudio" in sys.modules:
    from . import data, guidance, models, systems
    from .systems.ranges import check_config

    __all__ = ["check_config", "data", "guidance", "models", "systems"]
