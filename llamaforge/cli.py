"""The way in for people without a browser: `llamaforge`, or python -m llamaforge.

The commands are in cli_commands.py; without the package that reads their flags, this says how to install it.
"""

from __future__ import annotations

import sys

from .packages import install_line
from .redaction import quiet_secrets


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0 where all is well, 1 where it found a problem, 2 where it was called wrongly."""
    if arguments is None:  # a program of its own, and no call from Python
        quiet_secrets()
    try:
        from .cli_commands import run
    except ModuleNotFoundError as missing:
        if missing.name != "typer":
            raise
        print("The command line needs the package typer, which is not installed. Install it:", file=sys.stderr)
        print(install_line("cli"), file=sys.stderr)
        return 2
    return run(arguments)
