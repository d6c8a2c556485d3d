"""One chat: a tree of messages of which one branch is shown, kept as it grows. Knows no Gradio.

Every edit and every new answer is a version beside the old one, so that nothing that was said is lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from llamaforge import Generation, Image, LlamaForgeError, Message, Overflow, Role, clean_text

from .history import ChatRecord, History, new_id
from .history_file import HistoryError
from .turn import Turn, asked_of, told

Start = Callable[[Sequence[Message]], Generation]

DOUBLE_CLICK = 1.0  # seconds within which the same message again is one message
LONGEST_TITLE = 60  # characters
UNSEEN = "[a picture that this model cannot see]"


class AnswerRunning(LlamaForgeError):
    """The chat's last answer is still being written."""


class JustSent(AnswerRunning):
    """This very message was sent a moment ago: a second click on Send, an Enter too many."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer that was begun, the how manieth of its chat.

    Args:
        earlier: the text that it continues.
        asked: the message that it answers, where that alone is new: nothing above it is to be drawn anew.
    """

    number: int
    generation: Generation
    earlier: str = ""
    asked: str = ""


class Conversation:
    """One chat of one visitor.

    Args:
        history: where it is kept, from its first message on.
        visitor: whose it is.
        record: a chat that is kept already; a new one by default.
    """

    def __init__(self, history: History | None = None, visitor: str = "", record: ChatRecord | None = None) -> None:
        self.history = history or History()
        self.visitor = visitor
        self.is_kept = record is not None
        self._record = record or ChatRecord(new_id())
        self.system_prompt = self._record.system_prompt
        settings = self._record.settings
        # Of each model, as it was set in the page, and where those values come from that no person typed.
        self.parameters: dict[str, dict[str, Any]] = _copied(settings.get("parameters") or {})
        self.origins: dict[str, dict[str, str]] = _copied(settings.get("origins") or {})
        self.given = 0  # how often settings came from elsewhere than the Parameters tab
        self.file_said: dict[str, dict[str, Any]] = {}  # of these parameters, when they were set here
        self.overflow: Overflow = settings.get("overflow", "refuse")
        self.sees_images = True  # whether the model does; else a line stands in place of earlier pictures
        self.sessions: set[str] = set()
        self.left_at = 0.0  # when the last tab that showed it was closed
        self.counted: tuple[Any, tuple[int, bool]] | None = None  # tokens of the chat in one of its states; exact?
        self.begun: Begun | None = None  # the last answer since this chat was opened
        self.problem = ""  # why something of it is not kept, for people
        self._asked = ("", 0.0)
        self._before: list[Turn] = []  # the last answer was asked for
        self._written = ""  # by the visitor, to get that answer
        self._unsettled: list[Turn] = []
        self._lock = threading.RLock()
        self._turns: dict[int, Turn] = {}
        self._children: dict[int | None, list[int]] = {}
        self.turns: list[Turn] = []
        if record is not None:
            self._read(record.leaf)

    def _read(self, leaf: int | None) -> None:
        with_images = self.history.with_images(self.id)
        for record in self.history.messages(self.id):
            turn = Turn(
                record.role,
                record.text,
                about=record.about,
                thought=record.reasoning,
                has_images=record.id in with_images,
                id=record.id,
                parent=record.parent,
                created=record.created,
            )
            if turn.role == "assistant":
                turn.about.setdefault("finish_reason", "interrupted")  # nobody was there to see its end
            self._know(turn)
        self.turns = self._path(leaf)

    @property
    def id(self) -> str:
        return self._record.id

    @property
    def title(self) -> str:
        return self._record.title

    @property
    def pinned(self) -> bool:
        return self._record.pinned

    @property
    def state(self) -> tuple[Any, ...]:
        """What changes with everything that is said on the branch that is shown."""
        return self.id, self.leaf, len(self.turns), len(self.turns[-1].text) if self.turns else 0

    @property
    def running(self) -> Generation | None:
        """The answer that is being written or waits for its turn; None when the chat may go on.

        A stopped one gets no word more, so the chat goes on even while the engine still comes to rest.
        """
        turns = self.turns
        last = turns[-1].generation if turns else None
        return last if last is not None and last.result is None and not last.stopping else None

    def messages(self, turns: Sequence[Turn] | None = None) -> list[Message]:
        """Return what the model is given: the system prompt and every turn that says something.

        Args:
            turns: those of the branch that is shown by default.
        """
        system = [Message("system", self.system_prompt)] if self.system_prompt.strip() else []
        return system + [message for _, message in self._given(self.turns if turns is None else turns)]

    def first_given(self, dropped: int) -> int | None:
        """Return the place of the first turn that the model is given where it is not given some messages before."""
        places = [place for place, _ in self._given(self.turns)]
        return places[dropped] if 0 < dropped < len(places) else None

    def _given(self, turns: Sequence[Turn]) -> list[tuple[int, Message]]:
        """Return the messages that turns make, each with the place of its first turn."""
        given: list[tuple[int, Message]] = []
        for place, turn in enumerate(turns):
            if not (turn.text or turn.images or turn.has_images):
                continue
            message = self._message(turn)
            if given and given[-1][1].role == message.role:  # what came between was never written; templates alternate
                place, before = given.pop()
                text = f"{before.content}\n\n{message.content}"
                message = Message(message.role, text, before.images + message.images)
            given.append((place, message))
        return given

    def _message(self, turn: Turn) -> Message:
        role = cast(Role, turn.role)
        if not (turn.images or turn.has_images):
            return Message(role, turn.text)
        if self.sees_images or not turn.id:  # what is new is refused where it cannot be seen, not left out
            return Message(role, turn.text, turn.images or self.history.images(turn.id))
        return Message(role, f"{UNSEEN}\n{turn.text}")

    # Answers

    def ask(self, text: str, start: Start, images: Sequence[Image] = (), thumbnails: Sequence[str] = ()) -> Generation:
        """Add the visitor's message and start its answer; where that fails, the chat is as before.

        Args:
            thumbnails: small pictures of the images for the page, as data URLs.

        Raises:
            AnswerRunning: the last answer is still being written.
            HistoryError: it cannot be kept.
        """
        with self._lock:
            about = {"thumbnails": list(thumbnails)} if thumbnails else {}
            question = Turn("user", text, about=about, images=tuple(images), has_images=bool(images))
            alone = bool(self.turns) and not images
            generation = self._answer([*self.turns, question], start, text, asked=text if alone else "")
            self._asked = (text, time.monotonic())
            return generation

    def asked_just_now(self, text: str) -> bool:
        """Tell whether this very message was sent a moment ago: a second click on Send, an Enter too many."""
        return self._asked[0] == text and time.monotonic() - self._asked[1] < DOUBLE_CLICK

    def regenerate(self, start: Start) -> Generation | None:
        """Answer the last message anew, as one more version; None where there is no message."""
        with self._lock:
            self._require_idle()
            answered = bool(self.turns) and self.turns[-1].role == "assistant"
            turns = self.turns[:-1] if answered else self.turns
            return self._answer(turns, start, "") if turns else None

    def edit(self, index: int, text: str, start: Start) -> Generation | None:
        """Say something else in a turn, as one more version of it.

        A message of the visitor's is answered anew; after an answer everything that followed it stays.
        """
        with self._lock:
            self._require_idle()
            if not 0 <= index < len(self.turns):
                return None
            old = self.turns[index]
            (new,) = self._copies([old])
            new.said, new.created = text, time.time()
            if old.role == "user":
                return self._answer([*self.turns[:index], new], start, text)
            new.about = {"model": old.model, "edited": True, "finish_reason": "stop"}
            self._keep(self.turns[:index], [new, *self._copies(self.turns[index + 1 :])])
            return None

    def go_on(self, start: Start) -> Generation | None:
        """Continue the last answer where it was cut off; None where there is none to continue."""
        with self._lock:
            self._require_idle()
            last = self.turns[-1] if self.turns else None
            if last is None or not last.unfinished:
                return None
            self.settle()
            generation = start(self.messages())
            last.settle()
            self._before, self._written = self.turns, ""
            self._begin(last, generation)
            return generation

    def _answer(self, turns: list[Turn], start: Start, written: str, asked: str = "") -> Generation:
        """Start the answer to some turns, which then are the branch that is shown."""
        self._require_idle()
        before = self.turns
        generation = start(self.messages(turns))
        answer = Turn("assistant", about=asked_of(generation))
        try:
            known = [turn for turn in turns if turn.id]
            self._keep(known, [*turns[len(known) :], answer])
        except HistoryError:
            generation.stop()
            raise
        self._before, self._written = before, written
        self._begin(answer, generation, asked)
        return generation

    def _begin(self, turn: Turn, generation: Generation, asked: str = "") -> None:
        turn.about |= asked_of(generation)
        turn.generation, turn.journaled = generation, (0, 0)
        number = self.begun.number + 1 if self.begun is not None else 1
        self.begun = Begun(number, generation, turn.said, asked)
        if turn not in self._unsettled:
            self._unsettled.append(turn)

    def journal(self, generation: Generation, text: str, reasoning: str) -> None:
        """Keep what an answer says so far, before it is shown; `problem` tells where that fails."""
        with self._lock:
            turn = next((turn for turn in self._unsettled if turn.generation is generation), None)
            if turn is None:
                return
            had_text, had_reasoning = turn.journaled
            if len(text) <= had_text and len(reasoning) <= had_reasoning:
                return
            try:
                self.history.journal(turn.id, text[had_text:], reasoning[had_reasoning:])
            except HistoryError as error:
                self.problem = str(error)
                return
            turn.journaled = (len(text), len(reasoning))

    def settle(self) -> None:
        """Keep the ends of the answers that have ended."""
        with self._lock:
            for turn in [turn for turn in self._unsettled if turn.generation and turn.generation.result]:
                self._settle(turn)

    def _settle(self, turn: Turn) -> None:
        generation = turn.generation
        assert generation is not None and generation.result is not None
        said_nothing = not generation.text and not generation.reasoning
        if not (said_nothing and turn.said and generation.result.error is not None):
            turn.about |= told(generation.result) | {
                "lost": turn.lost
            }  # else nothing was added to what was cut off before
        turn.settle()
        self._unsettled.remove(turn)
        try:
            self.history.finish(turn.record())
        except HistoryError as error:
            self.problem = str(error)

    def forget_failed(self) -> str | None:
        """Where the last answer failed before its first word, go back to what was before it.

        Returns the text that the visitor wrote for it and should not have to write again, None where all went well.
        """
        with self._lock:
            last = self.turns[-1] if self.turns else None
            failed = last is not None and last.result is not None and last.result.error is not None
            if last is None or not failed or last.text or last.reasoning:
                return None
            self.settle()
            known = {turn.id for turn in self._before}
            vain = [turn for turn in self.turns if turn.id not in known]
            self.turns, self._asked = self._before, ("", 0.0)
            self._forget(vain)
            return self._written

    def _forget(self, vain: Sequence[Turn]) -> None:
        for turn in vain:
            del self._turns[turn.id]
            self._children[turn.parent].remove(turn.id)
        if self._turns:
            self.history.remove_messages(self.id, [turn.id for turn in vain], self.leaf)
            return
        self.history.erase(self.id)  # it has never been answered
        self.is_kept, self._record.title = False, ""

    def stop(self, *, lost: bool = False) -> None:
        """Stop the running answer; what is written stays.

        Args:
            lost: nobody wanted that, the connection to the page was lost.
        """
        self._asked = ("", 0.0)
        if (running := self.running) is not None:  # once: it may end at any moment
            self.turns[-1].lost = lost
            running.stop()

    # Versions and branches

    @property
    def leaf(self) -> int | None:
        return self.turns[-1].id if self.turns else None

    def versions(self, turn: Turn) -> tuple[int, int]:
        """Return which version of it a turn is, from 1, and how many there are."""
        siblings = self._children.get(turn.parent, [turn.id])
        return siblings.index(turn.id) + 1, len(siblings)

    def switch(self, turn: int, step: int) -> None:
        """Show the next (1) or the previous (-1) version of a turn, and what followed it last."""
        with self._lock:
            self._require_idle()
            if turn not in self._turns:
                return
            siblings = self._children[self._turns[turn].parent]
            place = siblings.index(turn) + step
            if not 0 <= place < len(siblings):
                return
            leaf = siblings[place]
            while followers := self._children.get(leaf):
                leaf = followers[-1]
            self._show(self._path(leaf))

    def undo(self) -> str:
        """Take the last message and its answer out of the branch and return the message's text."""
        with self._lock:
            self._require_idle()
            self._asked = ("", 0.0)
            turns = self.turns[:-1] if self.turns and self.turns[-1].role == "assistant" else self.turns
            if not turns:
                return ""
            self._show(turns[:-1])
            return turns[-1].text

    def branch(self, turn: int) -> Conversation | None:
        """Return a new chat that holds this one up to a turn; None where that is not shown."""
        with self._lock:
            place = next((place for place, shown in enumerate(self.turns) if shown.id == turn), None)
            if place is None or self.turns[place].generation is not None:
                return None
            title = f"{self.title} (branch)" if not self.title.endswith("(branch)") else self.title
            new = self.successor()
            new._record.title = title
            new._keep([], self._copies(self.turns[: place + 1]))
            return new

    def successor(self) -> Conversation:
        """Return a new, empty chat with this one's system prompt and settings."""
        new = Conversation(self.history, self.visitor)
        new.system_prompt, new.overflow = self.system_prompt, self.overflow
        new.parameters = {model: dict(values) for model, values in self.parameters.items()}
        new.origins = {model: dict(values) for model, values in self.origins.items()}
        new.file_said = {model: dict(values) for model, values in self.file_said.items()}
        return new

    def _copies(self, turns: Sequence[Turn]) -> list[Turn]:
        return [
            Turn(
                turn.role,
                turn.text,
                about=dict(turn.about),
                thought=turn.reasoning,
                images=self.history.images(turn.id) if turn.has_images else (),
                has_images=turn.has_images,
                created=turn.created,
            )
            for turn in turns
        ]

    # Title and settings

    def rename(self, title: str) -> None:
        """Give the chat a title; an empty one is its first words again."""
        first = self.turns[0].text if self.turns else ""
        self._record.title = clean_text(title).strip()[:200] or title_of(first)
        self._save(title=self._record.title)

    def pin(self, pinned: bool) -> None:
        """Keep the chat at the top of the list, or no longer."""
        self._record.pinned = pinned
        self._save(pinned=pinned)

    def save_settings(self) -> None:
        """Keep system prompt, parameters and the choice at the window's edge, where they have changed."""
        settings = {"parameters": self.parameters, "origins": self.origins, "overflow": self.overflow}
        if (self.system_prompt, settings) == (self._record.system_prompt, self._record.settings):
            return
        self._save(system_prompt=self.system_prompt, settings=settings)
        # A copy: what is compared with must not change with what is compared.
        copied = {"parameters": _copied(self.parameters), "origins": _copied(self.origins), "overflow": self.overflow}
        self._record.system_prompt, self._record.settings = self.system_prompt, copied

    def _save(self, **values: Any) -> None:
        if self.is_kept:
            self.history.change_chat(self.id, **values)

    # The tree

    def _keep(self, before: list[Turn], new: list[Turn]) -> None:
        """Keep new turns behind others and show that branch."""
        if not self.is_kept:
            said = next((turn.text for turn in new if turn.role == "user"), "")
            self._record.title = self._record.title or title_of(said)
            self.history.add_chat(self.visitor, self._record)
            self.is_kept = True
        self.save_settings()
        new[0].parent = before[-1].id if before else None
        ids = self.history.add_messages(self.id, [turn.record() for turn in new])
        for turn, number, parent in zip(new, ids, [new[0].parent, *ids], strict=False):
            turn.id, turn.parent, turn.images = number, parent, ()
            self._know(turn)
        self.turns = [*before, *new]

    def _know(self, turn: Turn) -> None:
        self._turns[turn.id] = turn
        self._children.setdefault(turn.parent, []).append(turn.id)

    def _path(self, leaf: int | None) -> list[Turn]:
        path = []
        while leaf is not None and leaf in self._turns:
            path.append(self._turns[leaf])
            leaf = self._turns[leaf].parent
        return path[::-1]

    def _show(self, turns: list[Turn]) -> None:
        self.turns = turns
        self._save(leaf=self.leaf)

    def _require_idle(self) -> None:
        self.settle()
        if self.running is not None:
            raise AnswerRunning("An answer is still being written. Stop it or wait for its end.")


def title_of(text: str) -> str:
    """Return the first words of a message as a title."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TITLE else f"{line[: LONGEST_TITLE - 1].rstrip()}…"


def _copied(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: dict(inner) for name, inner in values.items()}
