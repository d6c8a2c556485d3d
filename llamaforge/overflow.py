"""What a chat loses at its beginning where it does not fit into the context window, if that is wanted."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from .backends.base import BaseBackend
from .types import Message


def fitting(backend: BaseBackend, chat: Sequence[Message], max_tokens: int | None) -> tuple[list[Message], int]:
    """Return a chat without its oldest turns, as far as it must be, and how many messages that are.

    The system prompt and the last message of the user's, with what follows it, always stay. Room is left for an answer
    of max_tokens, unset a quarter of the window, at most half of it. What is kept begins with a message of the user's.
    Where nobody knows the window or the tokens, nothing is dropped.
    """
    window = backend.context_window
    system = next((place for place, message in enumerate(chat) if message.role != "system"), len(chat))
    turns = list(chat[system:])
    if window is None or not turns:
        return list(chat), 0
    room = min(max_tokens or window // 4, window // 2)

    def fits(start: int) -> bool:
        prompt = backend.render([*chat[:system], *turns[start:]])
        return prompt is None or prompt.tokens is None or prompt.tokens + room <= window

    if fits(0):
        return list(chat), 0
    starts = [place for place, message in enumerate(turns) if message.role == "user" and place]
    if not starts:
        return list(chat), 0  # nothing can go; the backend says how much too long it is
    start = starts[min(bisect.bisect_left(starts, True, key=fits), len(starts) - 1)]
    return [*chat[:system], *turns[start:]], start
