"""What a chat loses at its beginning where it does not fit into the context window, if that is wanted."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from .backends.base import BaseBackend
from .types import Message

# What a message takes beside its text, about: only for the places of the steps, never for what fits.
FRAME, PICTURE = 8, 256


def fitting(backend: BaseBackend, chat: Sequence[Message], max_tokens: int | None) -> tuple[list[Message], int]:
    """Return a chat without its oldest turns, as far as it must be, and how many messages that are.

    The system prompt and the last message of the user's, with what follows it, always stay. Room is left for an answer
    of max_tokens, unset a quarter of the window, at most half of it. What is kept begins with a message of the user's.
    Where nobody knows the window or the tokens, nothing is dropped.

    What goes, goes in steps: the cut is the first message of the user's behind a whole number of quarters of the
    window, counted in the tokens of the messages from the beginning of the chat. So it depends on the messages alone,
    and the prompts of turn after turn begin alike until the next step is due: the engine evaluates only what is new.
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
    least = bisect.bisect_left(starts, True, key=fits)
    start = starts[_at_step(backend, turns, starts, least, max(1, window // 4))]
    return [*chat[:system], *turns[start:]], start


def _at_step(backend: BaseBackend, turns: Sequence[Message], starts: Sequence[int], least: int, step: int) -> int:
    """Return which start comes first behind a whole number of steps, of those from `least` on."""

    def tokens_before(start: int) -> int:
        # Not the prompt's own tokens: those of old messages may be remembered at one turn, and no more at the next.
        gone = turns[:start]
        text = backend.count_tokens("\n".join(message.content for message in gone)) or 0
        return text + FRAME * len(gone) + PICTURE * sum(len(message.images) for message in gone)

    last = len(starts) - 1
    if least >= last or backend.count_tokens("") is None:
        return min(least, last)
    due = -(-tokens_before(starts[least]) // step) * step
    return min(bisect.bisect_left(starts, due, lo=least, key=tokens_before), last)
