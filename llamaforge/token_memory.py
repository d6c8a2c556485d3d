"""The tokens in which a model read its last prompt and wrote its answer, for a prompt that goes on from there.

A model may spell a text in other tokens than the tokenizer would. A chat that goes on, or an answer that is continued,
is given the very tokens that the KV cache holds, so that nothing is evaluated twice and nothing is read differently.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .chat_template import Segment

Tokenize = Callable[[Sequence[Segment]], list[int]]


class Exchange(NamedTuple):
    """A prompt, by its key and its tokens, and the answer to it: texts, each with the tokens that say it."""

    key: str
    prompt: list[int]
    pieces: list[tuple[str, list[int]]]


class TokenMemory:
    """Remembers one prompt and its answer; one thread writes, and any may ask meanwhile."""

    def __init__(self) -> None:
        self._last = Exchange("", [], [])  # replaced as a whole, so that nobody reads half of each
        self._open: list[int] = []  # tokens whose text is not whole yet, and that text
        self._text = ""

    def begin(self, segments: Sequence[Segment], tokens: Sequence[int]) -> None:
        """Note a prompt whose answer begins."""
        self._last = Exchange("".join(map(_key, segments)), list(tokens), [])
        self._open, self._text = [], ""

    def add(self, token: int, text: str, *, whole: bool) -> None:
        """Note a token of the answer and the text that came with it; `whole` when no part of a text is held back."""
        self._open.append(token)
        self._text += text
        if whole:
            self._last.pieces.append((self._text, self._open))
            self._open, self._text = [], ""

    @property
    def last(self) -> tuple[list[int], list[int]]:
        """The tokens of the last prompt, and those of the answer to it."""
        return self._last.prompt, [token for _, tokens in self._last.pieces for token in tokens] + self._open

    def tokens_of(self, segments: Sequence[Segment], tokenize: Tokenize, tokenize_rest: Tokenize) -> list[int]:
        """Return the tokens of a prompt: those that are remembered, as far as it begins with the same text.

        Args:
            tokenize_rest: tokenizes what is no beginning of a prompt.
        """
        key, last = "".join(map(_key, segments)), self._last
        if not last.key or not key.startswith(last.key):
            return tokenize(segments)
        tokens, place = list(last.prompt), len(last.key)
        for text, spelled in last.pieces:
            if place == len(key):
                break  # it was stopped here, and written on for a moment
            if not key.startswith(text, place):
                return tokenize(segments)  # the answer was changed
            tokens += spelled
            place += len(text)
        rest = _behind(segments, place)
        return [*tokens, *tokenize_rest(rest)] if rest is not None else tokenize(segments)


def _key(segment: Segment) -> str:
    if segment.image is not None:
        return f"\0{hashlib.sha256(segment.image.data).hexdigest()}\0"
    # What was typed and only looks like a control token is another text than the token.
    return f"\0{segment.text}\0" if segment.literal else segment.text


def _behind(segments: Sequence[Segment], place: int) -> list[Segment] | None:
    """Return what stands behind a place in the keys of segments; None where that is within a literal one."""
    for number, segment in enumerate(segments):
        length = len(_key(segment))
        if place < length:
            if place and segment.literal:
                return None
            return [segment._replace(text=segment.text[place:]), *segments[number + 1 :]]
        place -= length
    return []
