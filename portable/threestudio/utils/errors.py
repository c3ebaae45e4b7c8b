"""Errors that a user can mend. The message says everything: the key, the value and the choices.

Each class also has the type that the reference raises in the same place, so that code written for it still catches it.
``launch.py`` prints a :class:`UserError` as one line instead of a traceback.
"""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in a configuration, a command line or a file that the user gave."""


class UnknownKeyError(UserError, TypeError):
    """A configuration has a key that the module does not know, or no mapping was given at all."""


class UnknownNameError(UserError, KeyError):
    """A ``*_type`` names something that is not registered."""

    # KeyError would print the repr of the message.
    __str__ = ValueError.__str__


class DuplicateNameError(UserError):
    """Two classes register under one name."""


class SpecificationError(UserError, AssertionError):
    """A value has the wrong form: the length of a schedule, lists of unequal length, a missing partner."""


class DegenerateScheduleError(UserError, ZeroDivisionError):
    """A schedule has no extent: it starts and ends at the same step."""


class TrainingStoppedError(UserError):
    """Training cannot go on: the gradients stayed non-finite."""
