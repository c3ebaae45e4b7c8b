"""Mistakes that a user can mend, told in one line."""

from __future__ import annotations


class UserError(ValueError):
    """A wrong configuration, file or circumstance; the message names it and says what is possible."""
