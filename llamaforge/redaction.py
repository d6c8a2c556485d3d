"""What no text for people may hold, keys, tokens and passwords, and how it is hidden where one would.

Known are the values of environment variables that are named like secrets, and what was noted: keys in models' files.
"""

from __future__ import annotations

import html
import json
import logging
import os
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TextIO
from urllib.parse import quote

HIDDEN = "[hidden]"
SHORTEST_SECRET = 8  # "none", "EMPTY" and "ollama" are keys too, and ordinary words
SECRET_VARIABLES = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")  # how their names end

# Not hf_hub_download and the like, which stand in tracebacks.
_LOOKS_LIKE_A_KEY = re.compile(r"\bsk-[\w*.-]{4,}|\bhf_[a-z\d*.-]{10,}|\bbearer\s+[^\s\"',;]{4,}", re.IGNORECASE)
_BEARER = re.compile(r"^bearer\s+", re.IGNORECASE)
# Of the process, as its log and its terminal are; what was once a key stays hidden when its model is gone.
_noted: set[str] = set()


def note(keys: Iterable[str]) -> None:
    """Remember keys, so that hide_secrets() finds them."""
    _noted.update(without_bearer(key) for key in keys)


def without_bearer(text: str) -> str:
    """Return a key without "Bearer " before it and space around it."""
    return _BEARER.sub("", text.strip())


def known_secrets() -> frozenset[str]:
    """Return what no text may hold, as things are now."""
    names = [name for name in list(os.environ) if name.upper().endswith(SECRET_VARIABLES)]
    texts = [without_bearer(os.environ.get(name, "")) for name in names] + list(_noted)
    lines = (line for text in texts for line in text.splitlines())  # a log may tear apart what has several
    return frozenset(line for line in lines if len(line) >= SHORTEST_SECRET)


def redact(text: str, keys: Iterable[str]) -> str:
    """Return a text in which keys, and what looks like one, are hidden."""
    return _LOOKS_LIKE_A_KEY.sub(HIDDEN, _pattern(frozenset(keys)).sub(HIDDEN, text))


def hide_secrets(text: str) -> str:
    """Return a text in which every known secret, and what looks like a key, is hidden."""
    return redact(text, known_secrets())


@lru_cache(maxsize=16)
def _pattern(keys: frozenset[str]) -> re.Pattern[str]:
    """Return what finds keys, as they are and as addresses, JSON and HTML spell them; a longer one wins."""
    secrets = [key for key in keys if len(key) >= SHORTEST_SECRET]
    forms = {form for key in secrets for form in (key, quote(key, safe=""), json.dumps(key)[1:-1], html.escape(key))}
    return re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))) or r"(?!)")


def quiet_secrets() -> None:
    """From now on hide secrets in all that this process logs, and in what it writes to its terminal unlogged.

    For a program, not for a library: it changes how every record of `logging` is made, and replaces sys.stdout and
    sys.stderr. Tracebacks, of threads too, are written to the latter.
    """
    make = logging.getLogRecordFactory()
    logging.setLogRecordFactory(lambda *args, **kwargs: _quiet_record(make(*args, **kwargs)))
    sys.stdout, sys.stderr = _quiet_stream(sys.stdout), _quiet_stream(sys.stderr)


def _quiet_record(record: logging.LogRecord) -> logging.LogRecord:
    try:
        _hide_message(record)
    # What is wrong with a call of a logger is for its handler to say, on sys.stderr.
    except Exception:  # noqa: BLE001
        return record
    if record.exc_info and record.exc_info[0] is not None:
        trace = logging.Formatter().formatException(record.exc_info)
        if hide_secrets(trace) != trace:
            record.exc_text, record.exc_info = hide_secrets(trace), None
    record.stack_info = record.stack_info and hide_secrets(record.stack_info)
    return record


def _hide_message(record: logging.LogRecord) -> None:
    """Hide secrets in a record's arguments one by one, since uvicorn formats them itself; else in the whole."""
    whole = record.getMessage()
    if hide_secrets(whole) == whole:
        return
    if isinstance(record.args, tuple):
        record.args = tuple(arg if isinstance(arg, (int, float)) else hide_secrets(str(arg)) for arg in record.args)
    if record.getMessage() != hide_secrets(whole):
        record.msg, record.args = hide_secrets(whole), ()


class _QuietStream:
    """A text stream that hides secrets in what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(hide_secrets(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _quiet_stream(stream: TextIO) -> TextIO:
    quiet: Any = _QuietStream(stream)
    return quiet  # type: ignore[no-any-return]
