"""API keys: where one comes from, what may be one, and that none is ever part of a text for people.

A key is read when it is used. What is kept of it is the name of its environment variable, or the text that a user
wrote into the model's file, and that in an object that does not print it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from ..errors import ParameterError
from ..redaction import HIDDEN, redact, without_bearer
from ..text_stream import clean_text

LONGEST_KEY = 4096
LONGEST_SENTENCE = 300

_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]{0,63}_API_KEY)\}")


class Key:
    """What a model's `api_key` says: a variable, a literal key, or nothing.

    Raises:
        ParameterError: it names a variable that is none for keys, or cannot be a key.
    """

    __slots__ = ("_literal", "variable")

    def __init__(self, stated: str | None) -> None:
        text = (stated or "").strip()
        found = _VARIABLE.fullmatch(text)
        if found is None and ("${" in text or text.startswith("$")):
            raise _problem(
                "Only variables ending in _API_KEY may be used here. Write it like this: api_key: ${OPENAI_API_KEY}"
            )
        self.variable = found[1] if found else None
        self._literal = None if found or not text else _checked(text, "The key")

    def __repr__(self) -> str:
        return f"Key({self.variable or (HIDDEN if self._literal else None)})"

    @property
    def is_literal(self) -> bool:
        """Whether the key itself stands in the model's settings."""
        return self._literal is not None

    @property
    def is_set(self) -> bool:
        """Whether there is a key, or a variable that must hold one."""
        return self._literal is not None or self.variable is not None

    def read(self) -> str | None:
        """Return the key as it is now; None where none was asked for.

        Raises:
            ParameterError: the variable is not set, or what it holds cannot be a key.
        """
        if self.variable is None:
            return self._literal
        value = os.environ.get(self.variable, "").strip()
        if not value:
            raise _problem(
                f"The environment variable {self.variable} is not set. "
                f"Set it and start again: export {self.variable}=…"
            )
        return _checked(value, f"The key in {self.variable}")

    def secrets(self) -> list[str]:
        """Return what no text may hold."""
        try:
            key = self.read()
        except ParameterError:
            key = os.environ.get(self.variable or "", "").strip()
        return [key] if key else []


def _checked(text: str, whose: str) -> str:
    """Return a key without "Bearer " before it."""
    key = without_bearer(text)
    if len(key) > LONGEST_KEY:
        raise _problem(f"{whose} is longer than 4 KB. Copy it again.")
    if "\n" in key or "\r" in key:
        raise _problem(f"{whose} contains a line break. Copy it again, as one line.")
    if not key.isascii() or not key.isprintable():
        raise _problem(f"{whose} contains characters that no key has. Copy it again.")
    return key


def _problem(sentence: str) -> ParameterError:
    return ParameterError(sentence, name="api_key")


def plain(text: str, keys: Iterable[str], longest: int = LONGEST_SENTENCE) -> str:
    """Return what somebody else wrote as one short line without control characters and keys."""
    # Cleaned first and cut last: neither may help a key through.
    line = redact(" ".join(clean_text(text).split()), keys)
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
