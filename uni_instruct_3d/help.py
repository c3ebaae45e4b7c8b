"""How the help of every command is laid out."""

from __future__ import annotations

import argparse


class Help(argparse.RawDescriptionHelpFormatter):
    """Defaults behind the options that have one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        silent = default is None or default is False or default == [] or default == argparse.SUPPRESS
        if action.option_strings and not silent and "%(default)" not in text:
            text += " (default: %(default)s)" if text else "default: %(default)s"
        return text
