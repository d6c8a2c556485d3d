"""The tokens in which a model read its prompts and wrote its answers, for prompts that go on from there.

A model may spell a text in other tokens than the tokenizer would. A chat that goes on, or an answer that is continued,
is given the very tokens that the KV cache holds, so that nothing is evaluated twice and nothing is read differently.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .chat_template import Segment

Tokenize = Callable[[Sequence[Segment]], list[int]]
MOST_CHATS = 32  # some 300 KB each where a window of 8,192 tokens is full


class Exchange(NamedTuple):
    """What a prompt adds to the exchange before it, by its key and its tokens, and the answer to it.

    An answer is texts, each with the tokens that say it.
    """

    key: str
    prompt: list[int]
    pieces: list[tuple[str, list[int]]]


class TokenMemory:
    """Remembers the last chats; one thread writes, and any may ask meanwhile."""

    def __init__(self) -> None:
        self._chats: tuple[tuple[Exchange, ...], ...] = ()  # replaced as a whole, so that nobody reads half of it
        self._answer = Exchange("", [], [])
        self._last: tuple[list[int], list[int]] = ([], [])
        self._open: list[int] = []  # tokens whose text is not whole yet, and that text
        self._text = ""

    def begin(self, segments: Sequence[Segment], tokens: Sequence[int]) -> None:
        """Note a prompt whose answer begins; one without segments is not remembered."""
        self._open, self._text = [], ""
        self._last = list(tokens), []
        key = "".join(map(_key, segments))
        chat, known = self._longest(key)
        told, place = _tokens_of(known), _length(known)
        if told != list(tokens[: len(told)]):
            chat, known, told, place = (), (), [], 0  # it was read in tokens of its own
        repeated = bool(known) and place == len(key)
        self._answer = known[-1] if repeated else Exchange(key[place:], list(tokens[len(told) :]), [])
        if not key:
            return
        # A chat that goes on, or whose last answer is written anew, is one; an edit of it is another.
        others = [one for one in self._chats if one is not chat or len(known) < len(chat)]
        begun = (*(known[:-1] if repeated else known), self._answer)
        self._chats = (*others, begun)[-MOST_CHATS:]

    def add(self, token: int, text: str, *, whole: bool) -> None:
        """Note a token of the answer and the text that came with it; `whole` when no part of a text is held back."""
        self._open.append(token)
        self._last[1].append(token)
        self._text += text
        if whole:
            self._answer.pieces.append((self._text, self._open))
            self._open, self._text = [], ""

    @property
    def last(self) -> tuple[list[int], list[int]]:
        """The tokens of the last prompt, and those of the answer to it."""
        return self._last

    def tokens_of(self, segments: Sequence[Segment], tokenize: Tokenize, tokenize_rest: Tokenize) -> list[int]:
        """Return the tokens of a prompt: those that are remembered, as far as it begins with the same exchanges.

        Args:
            tokenize_rest: tokenizes what is no beginning of a prompt.
        """
        _chat, known = self._longest("".join(map(_key, segments)))
        rest = _behind(segments, _length(known)) if known else None
        return [*_tokens_of(known), *tokenize_rest(rest)] if rest is not None else tokenize(segments)

    def _longest(self, key: str) -> tuple[tuple[Exchange, ...], tuple[Exchange, ...]]:
        """Return the chat that a prompt goes on from, and what it shares with it."""
        shared = [(_shared(chat, key), chat) for chat in reversed(self._chats)]
        known, chat = max(shared, key=lambda one: _length(one[0]), default=((), ()))
        return chat, known


def _shared(chat: Sequence[Exchange], key: str) -> tuple[Exchange, ...]:
    """Return the exchanges that a prompt begins with; where it ends within an answer, that one as far as there."""
    known: list[Exchange] = []
    place = 0
    for exchange in chat:
        if not key.startswith(exchange.key, place):
            break
        place += len(exchange.key)
        answer, pieces = list(exchange.pieces), 0
        while pieces < len(answer) and place < len(key) and key.startswith(answer[pieces][0], place):
            place += len(answer[pieces][0])
            pieces += 1
        if pieces < len(answer) and place < len(key):
            break  # the answer was changed, and is read together with its question
        # Where the prompt ends before the answer does, it was stopped there and written on for a moment.
        known.append(exchange._replace(pieces=answer[:pieces]))
    return tuple(known)


def _tokens_of(exchanges: Sequence[Exchange]) -> list[int]:
    tokens: list[int] = []
    for exchange in exchanges:
        tokens += exchange.prompt
        for _text, spelled in exchange.pieces:
            tokens += spelled
    return tokens


def _length(exchanges: Sequence[Exchange]) -> int:
    return sum(len(exchange.key) + sum(len(text) for text, _ in exchange.pieces) for exchange in exchanges)


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
