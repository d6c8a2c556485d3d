"""YAML files that people name, one thing a file: which names may be, how one is read, where a removed one goes.

It must not know what they hold.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import time
from pathlib import Path

from .errors import ConfigError
from .key_mask import keys_in
from .redaction import note
from .yaml_file import YamlFile, read_raw

AN_HOUR = 3600.0
NAME = re.compile(r"[^\W_][\w .\-]{0,63}", re.UNICODE)
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names that Windows keeps for devices


def check_name(name: str) -> None:
    """Raise a ConfigError unless a name can be a file's name on every system."""
    if not NAME.fullmatch(name) or name.endswith((" ", ".")) or RESERVED.fullmatch(name):
        raise ConfigError(
            "Names may use letters, numbers, space, . _ - (1 to 64 characters, the first a letter or a number). "
            "Choose another name."
        )


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder that are meant to be read, by name."""
    files = sorted(folder.glob("*.yaml")) if folder.is_dir() else []
    return [file for file in files if not file.name.startswith(".")]


def read_named(path: Path) -> YamlFile:
    """Read and check a file; keys in one that cannot be used are hidden from then on all the same."""
    try:
        check_name(path.stem)
        return YamlFile.read(path)
    except ConfigError:
        with contextlib.suppress(ConfigError):  # it is a folder, too big, or gone
            note(keys_in(read_raw(path)[0]))
        raise


def sweep(folder: Path) -> None:
    """Remove what a save left beside its file when the program was killed in the middle of it."""
    for left in folder.glob(".*.yaml.tmp-*"):
        with contextlib.suppress(OSError):  # on a read-only disk it stays, and does no harm
            if time.time() - left.stat().st_mtime > AN_HOUR:  # a younger one may be another program's, at work
                left.unlink()


def move_to_trash(path: Path) -> None:
    """Move a file to .trash/ beside it, where every one is kept.

    Raises:
        ConfigError: the folder cannot be written.
    """
    trash = path.parent / ".trash"
    try:
        trash.mkdir(exist_ok=True)
        when = time.strftime("%Y%m%d-%H%M%S")
        places = (trash / f"{path.stem}.{when}{'-' * number}.yaml" for number in itertools.count())
        shutil.move(path, next(place for place in places if not place.exists()))
    except FileNotFoundError:
        return  # somebody else removed it already: what was asked for is so
    except OSError as error:
        raise ConfigError(f"Could not remove the file: {error.strerror}.", file=path) from error
