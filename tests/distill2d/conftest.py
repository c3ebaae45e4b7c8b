"""Fixtures of the text-to-image runs, for every file here that asks for them."""

from text_runs import config, teacher  # noqa: F401
