"""What guests may ask of the model: the owner's limits on every message, and a switch that closes it to them."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from llamaforge import (
    Generation,
    GuestLimit,
    GuestLimits,
    LlamaForge,
    Message,
    Model,
    NoModelLoaded,
    Overflow,
    describe,
    get_backend,
)

WINDOW = 600  # seconds
EVERYBODY = "everybody"


class Guests:
    """Admits guests' messages within the limits of settings.yaml as they are now."""

    def __init__(self, forge: LlamaForge) -> None:
        self._forge = forge
        self._rates = MovingWindowRateLimiter(MemoryStorage())
        self._lock = threading.Lock()
        self._answers: weakref.WeakSet[Generation] = weakref.WeakSet()
        self._closed = False
        self.address = ""  # where guests find the page, once that is known

    @property
    def limits(self) -> GuestLimits:
        return self._forge.config.settings.guests

    @property
    def open(self) -> bool:
        """Whether guests may chat."""
        return self.may_open and not self._closed

    @property
    def may_open(self) -> bool:
        """Whether settings.yaml lets guests chat; not where it is broken and nobody can tell what the owner wanted."""
        settings = self._forge.config.settings
        return settings.guests.open and settings.problem is None

    def close(self) -> None:
        """Refuse guests from now on and stop what is being written for them."""
        self._closed = True
        for generation in list(self._answers):
            generation.stop()

    def reopen(self) -> None:
        """Let guests chat again, where settings.yaml does."""
        self._closed = False

    def answer(self, visitor: str, messages: Sequence[Message], overflow: Overflow = "refuse") -> Generation:
        """Begin an answer to a guest, after every answer to the owner.

        Args:
            overflow: what happens where the chat does not fit into the context window.

        Raises:
            GuestLimit: guests may not; the sentence says why, and when they may.
        """
        with self._lock:
            self._require_open()
            self._require_small(messages)
            self._require_room()
            self._require_patience(visitor)
            longest = self.limits.answer_seconds
            generation = self._forge.chat_stream(
                messages, self._parameters(), last=True, longest=longest, overflow=overflow
            )
            self._answers.add(generation)
            return generation

    def _require_open(self) -> None:
        if not self.open:
            raise GuestLimit("The owner has closed this chat to guests.")
        model = self._loaded()
        if model is not None and not may_use(model):
            raise GuestLimit("The owner has not opened this model to guests.")

    def _loaded(self) -> Model | None:
        """Return the loaded model; None where nothing is loaded.

        Raises:
            NoModelLoaded: it is not registered any more, and so nobody can tell whether guests may use it.
        """
        name = self._forge.status.model
        if name is not None and name not in self._forge.config.models:
            raise NoModelLoaded("This model was taken out of the list.")
        return self._forge.config.models[name] if name is not None else None

    def _require_small(self, messages: Sequence[Message]) -> None:
        limits = self.limits
        length = next((len(message.content) for message in reversed(messages) if message.role == "user"), 0)
        if length > limits.message_characters:
            raise GuestLimit(
                f"Your message has {length:,} characters; guests may send {limits.message_characters:,}. Shorten it."
            )
        # The system prompt is the owner's, and the answer is one more.
        if sum(message.role != "system" for message in messages) >= limits.history_messages:
            raise GuestLimit(f"This chat has reached {limits.history_messages} messages. Start a new chat to go on.")

    def _require_room(self) -> None:
        waiting = [one for one in self._answers if one.result is None and not one.running]
        if len(waiting) >= self.limits.waiting:
            raise GuestLimit(f"Too many guests wait for an answer already: {len(waiting)}. Try again in a minute.")

    def _require_patience(self, visitor: str) -> None:
        own = RateLimitItemPerSecond(self.limits.messages_per_10_minutes, WINDOW)
        everybodys = RateLimitItemPerSecond(self.limits.all_messages_per_10_minutes, WINDOW)
        for item, who, sentence in (
            (own, visitor, "You are sending messages too quickly."),
            (everybodys, EVERYBODY, "Many people are chatting right now."),
        ):
            if not self._rates.test(item, who):
                wait = math.ceil(self._rates.get_window_stats(item, who).reset_time - time.time())
                raise GuestLimit(f"{sentence} Wait {max(wait, 1)} seconds.")
        self._rates.hit(own, visitor)
        self._rates.hit(everybodys, EVERYBODY)

    def _parameters(self) -> dict[str, Any]:
        """Return the model's own limit of an answer's length, or the guests' where that is shorter."""
        model = self._loaded()
        if model is None or "max_tokens" not in describe(get_backend(model.backend).Parameters):
            return {}
        own = {**self._forge.config.settings.parameters, **model.parameters}.get("max_tokens")
        lengths = (self.limits.max_tokens, own, self._forge.status.context_window)
        return {"max_tokens": min(length for length in lengths if length is not None)}


def may_use(model: Model) -> bool:
    """Tell whether guests may use a model: as its file says, and by default all but services, which cost money."""
    return not get_backend(model.backend).is_service if model.guests is None else model.guests
