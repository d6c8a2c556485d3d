"""A plugin that keeps long chats short: the system prompt and the latest turns stay, and it says what does not."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from pydantic import Field

from ..backends.parameters import Parameters
from ..types import Message
from .base import Plugin


class Trimmer(Plugin):
    """Keeps the latest turns; a turn is a message of the user's with what follows it."""

    api = 1
    about = "Leaves the oldest turns of a long chat out, keeps the system prompt, and says what it left out."

    class Settings(Parameters):
        turns: int | None = Field(default=12, description="Most turns that are kept.", ge=1, le=10_000)
        share: float | None = Field(
            default=None, description="Most of the context window that the chat may take, 0.1 to 1.", ge=0.1, le=1
        )

    def before(self, messages: list[Message]) -> list[Message]:
        system = next((place for place, one in enumerate(messages) if one.role != "system"), len(messages))
        head, chat = messages[:system], messages[system:]
        places = self._places([place for place, one in enumerate(chat) if one.role == "user"])
        first = bisect.bisect_left(places, True, key=lambda place: self._fits([*head, *chat[place:]]))
        dropped = places[min(first, len(places) - 1)]
        if dropped:
            self.note(f"{dropped} older {'message was' if dropped == 1 else 'messages were'} left out.")
        return [*head, *chat[dropped:]]

    def _places(self, starts: Sequence[int]) -> list[int]:
        """Return where the chat may begin, the earliest first and the last turn alone at the end.

        It moves on by a quarter of the turns at once: the turns between have the same beginning, which the engine
        need not read again.
        """
        most = self.settings.turns or len(starts)
        step = max(1, most // 4)
        first = -(-max(0, len(starts) - most) // step) * step
        places = [starts[number] if number else 0 for number in range(first, len(starts), step)]
        return sorted({*places, *starts[-1:]}) or [0]

    def _fits(self, messages: Sequence[Message]) -> bool:
        window = self.model.context_window
        if self.settings.share is None or window is None:
            return True
        tokens = self.model.count(messages)
        return tokens is None or tokens <= window * self.settings.share
