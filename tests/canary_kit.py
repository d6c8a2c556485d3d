"""Secrets of the person who runs the tests, which nothing that comes out of the program may hold.

Importing this sets them, which conftest.py does first, so that every process of the tests inherits them. The run fails
where look_at() has found one, or a file of the tests holds one. Only the place is told, never the value.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CANARIES = {
    f"SESSION_CANARY_{kind}": f"canary.{kind.lower()}.3d1b9e57c2"
    for kind in ("API_KEY", "TOKEN", "SECRET", "PASSWORD", "ACCESS_KEY")
}
LARGEST = 64 * 2**20
MARK = b"canary."
found: list[str] = []  # places


os.environ.update(CANARIES)


def has_canary(data: bytes) -> bool:
    return MARK in data and any(value.encode() in data for value in CANARIES.values())


def look_at(text: str | bytes, place: str) -> None:
    """Note a place whose text holds a canary."""
    if has_canary(text if isinstance(text, bytes) else text.encode("utf-8", "replace")):
        found.append(place)


def files_with_canaries(folder: Path) -> Iterator[str]:
    """Yield the files under a folder that hold a canary; links and what is larger than any text are passed by."""
    for root, _, names in os.walk(folder):
        for path in (Path(root) / name for name in names):
            try:
                if path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST:
                    if has_canary(path.read_bytes()):
                        yield str(path)
            except OSError:  # it is gone, or nobody may read it
                continue
