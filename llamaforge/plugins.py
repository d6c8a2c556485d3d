"""Finding and importing plugins: Python modules that settings.yaml names, which may register backends.

A plugin has all the rights of the person who starts LlamaForge; nothing here is a sandbox. What is isolated is its
failure: an import that raises, exits or never ends is told, and everything else goes on.
"""

from __future__ import annotations

import importlib
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from .errors import PluginError

IMPORT_SECONDS = 10.0
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def import_plugins(names: Sequence[str], folder: Path) -> dict[str, PluginError]:
    """Import plugins by module name, each once; return what is wrong with those that cannot be used.

    Args:
        folder: where modules are looked for after everything that is installed.
    """
    if names and folder.is_dir() and str(folder) not in sys.path:
        sys.path.append(str(folder))  # last, so that no file in it takes the place of an installed package
    problems = {name: _import(name, folder) for name in names}
    return {name: problem for name, problem in problems.items() if problem is not None}


def _import(name: str, folder: Path) -> PluginError | None:
    if not NAME.fullmatch(name):
        return PluginError(f"Plugin {name!r} is no name of a Python module.")
    problems: list[PluginError] = []
    importer = threading.Thread(target=_import_here, args=[name, folder, problems], daemon=True)
    importer.start()
    importer.join(IMPORT_SECONDS)
    if importer.is_alive():
        return PluginError(f"Plugin {name!r} is broken: its import does not end.")
    return problems[0] if problems else None


def _import_here(name: str, folder: Path, problems: list[PluginError]) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name == name:
            text = f"Plugin {name!r} was not found. Put {name}.py into {'/'.join(folder.parts[-2:])}, or install it."
        else:
            text = f"Plugin {name!r} is broken: it needs {missing.name!r}, which is not installed."
        problems.append(PluginError(text))
    # A user's module may fail in any way, sys.exit() included; it must not take the others down.
    except (Exception, SystemExit) as failure:  # noqa: BLE001
        problems.append(PluginError(f"Plugin {name!r} is broken: {type(failure).__name__}: {failure}"))
