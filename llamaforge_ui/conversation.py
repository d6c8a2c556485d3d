"""Conversations as the server keeps them; the browser sends an id and new text, never history. Knows no Gradio."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamaforge import Generation, LlamaForgeError, Message, Result

Start = Callable[[Sequence[Message]], Generation]


KEPT_SECONDS = 3600.0  # for a reload, or a tab that comes back
DOUBLE_CLICK = 1.0  # seconds within which the same message again is one message


class AnswerRunning(LlamaForgeError):
    """The chat's last answer is still being written."""


class JustSent(AnswerRunning):
    """This very message was sent a moment ago: a second click on Send, an Enter too many."""


@dataclass(slots=True)
class Turn:
    """What one side said; an answer that is being written is read straight from its generation."""

    role: str
    said: str = ""
    generation: Generation | None = None
    model: str = ""

    @property
    def text(self) -> str:
        return self.generation.text if self.generation is not None else self.said

    @property
    def reasoning(self) -> str:
        return self.generation.reasoning if self.generation is not None else ""

    @property
    def result(self) -> Result | None:
        return self.generation.result if self.generation is not None else None


@dataclass(slots=True)
class Conversation:
    """One chat of one visitor."""

    turns: list[Turn] = field(default_factory=list)
    system_prompt: str = ""
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)  # of each model, as this visitor set them
    file_said: dict[str, dict[str, Any]] = field(default_factory=dict)  # of these parameters, when they were set here
    origins: dict[str, dict[str, str]] = field(default_factory=dict)  # of those that no person typed ("preset calm")
    sessions: set[str] = field(default_factory=set)
    left_at: float = 0.0  # when the last tab that showed it was closed
    _asked: tuple[str, float] = ("", 0.0)
    _before: list[Turn] = field(default_factory=list)  # the last answer was asked for
    _written: str = ""  # by the visitor, to get that answer
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def running(self) -> Generation | None:
        """The answer that is being written or waits for its turn; None when the chat may go on.

        A stopped one gets no word more, so the chat goes on even while the engine still comes to rest.
        """
        last = self.turns[-1].generation if self.turns else None
        return last if last is not None and last.result is None and not last.stopping else None

    def messages(self) -> list[Message]:
        """Return what the model is given: the system prompt and every turn that holds text."""
        return self._messages(self.turns)

    def _messages(self, turns: list[Turn]) -> list[Message]:
        system = [Message("system", self.system_prompt)] if self.system_prompt.strip() else []
        said = [Message("user" if turn.role == "user" else "assistant", turn.text) for turn in turns if turn.text]
        return system + said

    def ask(self, text: str, start: Start, model: str) -> Generation:
        """Add the visitor's message and start its answer; where that fails, the chat is as before.

        Raises:
            AnswerRunning: the last answer is still being written.
        """
        with self._lock:
            generation = self._answer([*self.turns, Turn("user", text)], start, model, text)
            self._asked = (text, time.monotonic())
            return generation

    def asked_just_now(self, text: str) -> bool:
        """Tell whether this very message was sent a moment ago: a second click on Send, an Enter too many."""
        return self._asked[0] == text and time.monotonic() - self._asked[1] < DOUBLE_CLICK

    def regenerate(self, start: Start, model: str) -> Generation | None:
        """Answer the last message anew; None where there is none. The old answer stays where that fails."""
        with self._lock:
            self._require_idle()
            answered = bool(self.turns) and self.turns[-1].role == "assistant"
            turns = self.turns[:-1] if answered else self.turns
            return self._answer(turns, start, model, "") if turns else None

    def edit(self, index: int, text: str, start: Start, model: str) -> Generation | None:
        """Replace what was said in a turn; a message of the visitor's is answered anew, without the turns after it.

        Where that answer fails, all of them stay.
        """
        with self._lock:
            self._require_idle()
            if not 0 <= index < len(self.turns):
                return None
            role = self.turns[index].role
            if role == "user":
                return self._answer([*self.turns[:index], Turn(role, text)], start, model, text)
            self.turns[index] = Turn(role, text)
            return None

    def undo(self) -> str:
        """Take the last message and its answer back and return the message's text."""
        with self._lock:
            self._require_idle()
            self._asked = ("", 0.0)
            if self.turns and self.turns[-1].role == "assistant":
                self.turns.pop()
            return self.turns.pop().text if self.turns else ""

    def forget_failed(self) -> str | None:
        """Where the last answer failed before its first word, go back to what was before it.

        Returns the text that the visitor wrote for it and should not have to write again, None where all went well.
        """
        with self._lock:
            last = self.turns[-1] if self.turns else None
            failed = last is not None and last.result is not None and last.result.error is not None
            if last is None or not failed or last.text or last.reasoning:
                return None
            self.turns, self._asked = self._before, ("", 0.0)
            return self._written

    def clear(self) -> None:
        """Begin anew; a running answer is stopped."""
        with self._lock:
            self.stop()
            self.turns, self._before = [], []

    def stop(self) -> None:
        """Stop the running answer; what is written stays."""
        self._asked = ("", 0.0)
        if self.running is not None:
            self.running.stop()

    def _answer(self, turns: list[Turn], start: Start, model: str, written: str) -> Generation:
        """Start the answer to some turns, which then take the place of those that there are."""
        self._require_idle()
        generation = start(self._messages(turns))
        self._before, self._written = self.turns, written
        self.turns = [*turns, Turn("assistant", generation=generation, model=model)]
        return generation

    def _require_idle(self) -> None:
        if self.running is not None:
            raise AnswerRunning("An answer is still being written. Stop it or wait for its end.")


class Conversations:
    """Every visitor's conversation in memory; beyond `most()` the one idle for longest is dropped, and what a tab that
    was closed an hour ago has left."""

    def __init__(self, most: Callable[[], int] = lambda: 200) -> None:
        self._most = most
        self._known: OrderedDict[str, Conversation] = OrderedDict()
        self._of_session: dict[str, str] = {}
        self._lock = threading.Lock()

    def attach(self, session: str, key: str) -> Conversation:
        """Give a browser tab the conversation that it had before a reload, by the key that only that tab knows."""
        with self._lock:
            self._of_session[session] = key if len(key) >= 32 else secrets.token_hex(16)
        return self.of(session)

    def of(self, session: str) -> Conversation:
        """Return a session's conversation, a new one for a new session."""
        with self._lock:
            key = self._of_session.setdefault(session, secrets.token_hex(16))
            conversation = self._known.setdefault(key, Conversation())
            self._known.move_to_end(key)
            conversation.sessions.add(session)
            self._drop_idle()
            return conversation

    def key_of(self, session: str) -> str:
        """Return what names a session's conversation, also after a reload of its tab."""
        with self._lock:
            return self._of_session.get(session, session)

    def leave(self, session: str) -> None:
        """A tab was closed: stop its answer unless another tab shows it; the text stays for a reload."""
        with self._lock:
            key = self._of_session.pop(session, None)
            conversation = self._known.get(key) if key else None
        if conversation is not None:
            conversation.sessions.discard(session)
            if not conversation.sessions:
                conversation.left_at = time.monotonic()
                conversation.stop()

    def _drop_idle(self) -> None:
        long_ago = time.monotonic() - KEPT_SECONDS
        for key in [key for key, known in self._known.items() if not known.sessions and known.left_at < long_ago]:
            del self._known[key]
        for key in [key for key, known in self._known.items() if known.running is None]:
            if len(self._known) <= self._most():
                return
            del self._known[key]
