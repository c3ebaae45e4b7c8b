"""Every name that a configuration may have is registered, whichever test file is asked for first."""

from __future__ import annotations

import sys

import pytest

import uni_instruct_guidance.core  # noqa: F401  the way tests of the mathematics begin: no host is asked for

NAMES = ("uni-instruct-system", "uni-instruct-guidance", "uni-instruct-volume", "random-multiview-camera-datamodule")


@pytest.mark.parametrize("name", NAMES)
def test_the_host_was_there_before_the_extension(name):
    assert name in sys.modules["threestudio"].__modules__
