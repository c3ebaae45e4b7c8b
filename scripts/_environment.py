"""First import of every script: the project's interpreter, then its packages on the path."""

import _interpreter  # noqa: F401

import uni_instruct_3d  # noqa: F401
