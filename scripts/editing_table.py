"""Every method of editing and restoring on the same pictures; ``--help`` lists the options. docs/editing.md."""

import sys

import _environment  # noqa: F401

from uni_instruct_3d.editing.table_cli import main

if __name__ == "__main__":
    sys.exit(main())
