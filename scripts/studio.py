"""The page in the browser; ``--help`` lists the options."""

import sys

import _environment  # noqa: F401

from uni_instruct_3d.studio.cli import main

if __name__ == "__main__":
    sys.exit(main())
