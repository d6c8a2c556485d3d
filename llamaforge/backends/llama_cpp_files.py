"""Which GGUF file a path means for llama.cpp: one on this disk, or one of the Hugging Face Hub, fetched first."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

from .. import hub
from ..background import in_background
from ..errors import ModelFileError
from ..gguf_file import GGUFHeader, read_header
from ..types import ModelCard


def local_file(path: str) -> Path | None:
    """Return the file on this disk; None where it is one of the Hub that is not here yet. Makes no request."""
    hub_path = hub.parse(path)
    return Path(path).expanduser() if hub_path is None else hub.cached_gguf(hub_path)


def fetched_file(path: str, on_progress: hub.Progress) -> Path:
    """Return the file on this disk, fetched if need be."""
    hub_path = hub.parse(path)
    return Path(path).expanduser() if hub_path is None else hub.fetch_gguf(hub_path, on_progress=on_progress)


def card_before_download(path: str) -> ModelCard:
    """Return what is known of a model of the Hub that is not here yet."""
    hub_path = hub.parse(path) or hub.HubPath(path)
    facts = {"Hub": hub_path.repo, "In it": hub_path.file, "Here": "not yet; it is downloaded when it is loaded"}
    return ModelCard(facts={key: text for key, text in facts.items() if text})


def header_of(file: Path) -> GGUFHeader:
    """Read a header once for each state of the file: a load asks for it several times."""
    try:
        stat = file.stat()
    except OSError:
        return read_header(file)
    return _header(file, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=8)
def _header(file: Path, modified: int, size: int) -> GGUFHeader:
    return read_header(file)


def require_sha256(file: Path, expected: str, poll: Callable[[], None]) -> None:
    """Raise ModelFileError unless the file has this checksum; it is computed once for each state of the file.

    Args:
        poll: called ten times a second meanwhile; may raise to give up.
    """
    stat = file.stat()
    if in_background(lambda: _sha256(file, stat.st_mtime_ns, stat.st_size), poll) != expected.lower():
        raise ModelFileError("The file differs from the expected one. Do not use it; download it again.")


@functools.lru_cache(maxsize=8)
def _sha256(file: Path, modified: int, size: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
