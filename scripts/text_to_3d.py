"""From a prompt to a 3D asset; ``--help`` lists the options. The same as the console command ``uni-instruct-3d``."""

import sys

import _environment  # noqa: F401

from uni_instruct_3d.pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main())
