"""Who sees which chat: visitors, their browser tabs, and the chats that these show. Knows no Gradio."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from llamaforge import LlamaForgeError, clean_text

from .conversation import Conversation
from .history import Found, History
from .history_file import HistoryError

SHOWN_TURNS = 20  # at first: each costs a little whenever the chat is drawn, and at each drawing below it
OLDER_TURNS = 40  # more, at a press
LISTED = 100
KEPT_SECONDS = 3600.0  # for a reload, or a tab that comes back
SHORTEST_KEY = 32
SETTLE_SECONDS = 1.0
VISITS_A_CHAT = 5
CHATS_A_VISITOR = 20  # who vanishes
MOST_EXPORTED = 10_000


class SessionEnded(LlamaForgeError):
    """The chat that a tab shows is gone; what is typed there is not."""


class ChatGone(LlamaForgeError):
    """A chat, or a message of it, is not there any more."""


@dataclass(slots=True)
class Visit:
    """One open browser tab: whose it is, and what it shows."""

    visitor: str
    key: str  # that only this tab knows, also after a reload
    arrived: bool = False  # whether a page has been opened for it
    chat: str = ""
    system_prompt: str = ""  # as its box was drawn: what differs from it, a person has typed here
    turns: int = SHOWN_TURNS  # how many of the chat's last turns it shows
    listed: int = LISTED  # how many chats its list shows
    search: str = ""  # what the list is searched for
    drawing: asyncio.Lock = field(default_factory=asyncio.Lock)  # Gradio may send a small update before a larger one
    stream: object = None  # that is read of its answer: the last one that was asked for


class Conversations:
    """Every chat that is open, of every visitor.

    Args:
        history: where chats are kept; by default in memory.
        owner: whose they all are, where everybody who comes is the same person; else every tab is a visitor of its
            own, who finds nobody else's chats and whose own vanish an hour after the tab was closed.
        most: how many chats are kept of visitors who vanish; beyond them the one idle for longest is dropped.
    """

    def __init__(
        self, history: History | None = None, *, owner: str = "", most: Callable[[], int] = lambda: 200
    ) -> None:
        self.history = history or History()
        self.temporary = History() if owner else self.history
        self.owner = owner
        self._most = most
        self._visits: OrderedDict[str, Visit] = OrderedDict()  # of each session; what did nothing longest is first
        self._here: dict[str, int] = {}  # how many sessions each visitor who vanishes has
        self._left: OrderedDict[str, float] = OrderedDict()  # when such a visitor left, the first one first
        self._open: OrderedDict[str, Conversation] = OrderedDict()
        self._lock = threading.RLock()

    # Tabs

    def attach(self, session: str, key: str) -> Conversation:
        """Give a browser tab the chat that it had before a reload, by the key that only that tab knows."""
        with self._lock:
            self._forget(session)
            key = key if len(key) >= SHORTEST_KEY else secrets.token_hex(16)
            visitor = self.owner or key
            known = self.history.chat_of_tab(key)
            conversation = self._find(visitor, known) if known else None
            return self._show(session, Visit(visitor, key, arrived=True), conversation or self._new(visitor))

    def arrived(self, session: str) -> bool:
        """Tell whether a session's page knows which chat it shows."""
        visit = self._visits.get(session)
        return visit is not None and visit.arrived

    def of(self, session: str) -> Conversation:
        """Return the chat that a session shows; a new, temporary one for a session without a page."""
        with self._lock:
            visit = self._visits.get(session)
            if visit is None:
                visitor = self.owner or secrets.token_hex(16)
                visit = Visit(visitor, secrets.token_hex(16))
                return self._show(session, visit, Conversation(self.temporary, visitor))
            self._visits.move_to_end(session)
            if visit.chat in self._open:
                return self._use(self._open[visit.chat])
            return self._show(session, visit, self._find(visit.visitor, visit.chat) or self._new(visit.visitor))

    def of_tab(self, key: str, chat: str) -> tuple[Visit, Conversation] | None:
        """Return the tab with this key that shows this chat, and the chat; None where there is none."""
        with self._lock:
            shown = (
                visit for visit in self._visits.values() if visit.arrived and (visit.key, visit.chat) == (key, chat)
            )
            visit, conversation = next(shown, None), self._open.get(chat)
            return (visit, conversation) if visit is not None and conversation is not None else None

    def shown(self, session: str, key: str, chat: str) -> Conversation:
        """Return the chat that a tab shows, also where this program was started anew since the tab was opened.

        Raises:
            SessionEnded: it is gone; the tab has a new, empty one from now on.
        """
        with self._lock:
            visit = self._visits.get(session)
            another = visit is not None and len(key) >= SHORTEST_KEY and visit.key != key
            conversation = self.attach(session, key) if visit is None or another else self.of(session)
            if not chat or conversation.id == chat:
                return conversation
            visit = self._visits[session]
            found = self._find(visit.visitor, chat)
            if found is not None:
                return self._show(session, visit, found)
            if not self.owner:
                raise SessionEnded("Your session ended. Your text is still in the box; press Send again.")
            if self.history.is_deleted(chat):
                raise SessionEnded("This chat was deleted in another window. Press Send for a new one with your text.")
            return conversation  # it was never used before the program was started anew

    def still_shown(self, session: str, key: str, chat: str) -> Conversation | None:
        """Return the chat that a tab says it shows, also where its visit was taken for ended; None for another one.

        Unlike shown() it never changes what a tab shows, which may have opened another chat meanwhile.
        """
        with self._lock:
            conversation = self.of(session) if self.arrived(session) else self.attach(session, key)
            return conversation if conversation.id == chat else None

    def leave(self, session: str) -> None:
        """A tab was closed: stop its answer unless another tab shows it; the text stays for a reload."""
        with self._lock:
            conversation = self._forget(session)
        if conversation is None:
            return
        generation = conversation.turns[-1].generation if conversation.turns else None
        if not conversation.sessions and generation is not None:
            generation.wait(SETTLE_SECONDS)
        conversation.settle()
        with suppress(HistoryError):  # a full disk; what was said is kept as it was said
            conversation.save_settings()

    def _forget(self, session: str) -> Conversation | None:
        """Let go of a visit and return the chat that it showed."""
        visit = self._visits.pop(session, None)
        if visit is None:
            return None
        if not self.owner:
            self._here[visit.visitor] -= 1
            if not self._here[visit.visitor]:
                del self._here[visit.visitor]
                self._left[visit.visitor] = time.monotonic()
        conversation = self._open.get(visit.chat)
        if conversation is not None:
            self._part(session, conversation, lost=True)
        return conversation

    def key_of(self, session: str) -> str:
        """Return what names a session's visitor, also after a reload of its tab."""
        with self._lock:
            visit = self._visits.get(session)
            return visit.visitor if visit is not None else session

    # Chats

    def new(self, session: str, *, temporary: bool = False) -> Conversation:
        """Show a new chat with the settings of the one before; what that was answering is stopped."""
        with self._lock:
            before = self.of(session)
            conversation = before.successor()
            conversation.history = self.temporary if temporary else self.history
            return self._show(session, self._visits[session], conversation)

    def open(self, session: str, chat: str) -> Conversation | None:
        """Show one of the visitor's chats; None where there is none of that id."""
        with self._lock:
            self.of(session)
            visit = self._visits[session]
            found = self._find(visit.visitor, chat)
            return self._show(session, visit, found) if found is not None else None

    def show(self, session: str, conversation: Conversation) -> Conversation:
        """Show a chat that was just made, a branch say."""
        with self._lock:
            self.of(session)
            return self._show(session, self._visits[session], conversation)

    def find(self, session: str, chat: str) -> Conversation | None:
        """Return one of the visitor's chats without showing it; None where there is none of that id."""
        with self._lock:
            self.of(session)
            return self._find(self._visits[session].visitor, chat)

    def every(self, session: str) -> list[Conversation]:
        """Return all of the visitor's chats, those in the list first."""
        visitor = self.visit(session).visitor
        found = [self._find(visitor, chat.id) for chat in self.history.chats(visitor, MOST_EXPORTED)]
        return [conversation for conversation in found if conversation is not None]

    def visit(self, session: str) -> Visit:
        """Return what a tab shows."""
        with self._lock:
            self.of(session)
            return self._visits[session]

    def listed(self, visit: Visit) -> list[Found]:
        """Return the visitor's chats, where the list is searched those that were found; one more than are shown."""
        return self.history.search(visit.visitor, clean_text(visit.search), visit.listed + 1)

    def delete(self, session: str, chat: str) -> bool:
        """Delete one of the visitor's chats, which can be restored for a while; its answer is stopped."""
        with self._lock:
            self.of(session)
            visit = self._visits[session]
            if chat in self._open and self._open[chat].visitor == visit.visitor:
                self._open[chat].stop()
            if not self.history.delete(visit.visitor, chat):
                return False
            self._open.pop(chat, None)
            for one, shown in list(self._visits.items()):
                if shown.chat == chat:
                    self._show(one, shown, self._new(shown.visitor))
            return True

    def restore(self, session: str, chat: str) -> bool:
        """Bring one of the visitor's deleted chats back."""
        return self.history.restore(self.key_of(session), chat)

    def is_temporary(self, conversation: Conversation) -> bool:
        """Tell whether a chat is not kept beside the visitor's others."""
        return conversation.history is not self.history

    def close(self) -> None:
        """Stop every answer and keep its end; for the end of the program."""
        with self._lock:
            everyone = list(self._open.values())
        for conversation in everyone:
            conversation.stop()
        end = time.monotonic() + SETTLE_SECONDS
        for conversation in everyone:
            for turn in conversation.turns[-1:]:
                if turn.generation is not None:
                    turn.generation.wait(max(0.0, end - time.monotonic()))
            conversation.settle()
        self.history.close()

    def _new(self, visitor: str) -> Conversation:
        return Conversation(self.history, visitor)

    def _find(self, visitor: str, chat: str) -> Conversation | None:
        """Return a visitor's chat: the one that is open, else as it is kept; never another visitor's."""
        known = self._open.get(chat)
        if known is not None:
            return known if known.visitor == visitor else None
        record = self.history.chat(visitor, chat)
        return Conversation(self.history, visitor, record) if record is not None else None

    def _show(self, session: str, visit: Visit, conversation: Conversation) -> Conversation:
        before = self._open.get(visit.chat)
        if before is not None and before is not conversation:
            self._part(session, before)
            if not before.sessions and not before.is_kept:
                del self._open[before.id]  # nothing was ever said in it
        if visit.chat != conversation.id:
            visit.turns = SHOWN_TURNS
        visit.chat, visit.system_prompt = conversation.id, conversation.system_prompt
        if session not in self._visits and not self.owner:
            self._here[visit.visitor] = self._here.get(visit.visitor, 0) + 1
            self._left.pop(visit.visitor, None)
        self._visits[session] = visit
        if visit.arrived:
            with suppress(HistoryError):  # a full disk; such a tab begins with a new chat when it is loaded again
                self.history.remember_tab(visit.key, conversation.id)
        conversation.sessions.add(session)
        self._open[conversation.id] = conversation
        self._drop_idle(visit.visitor)
        return self._use(conversation)

    def _use(self, conversation: Conversation) -> Conversation:
        self._open.move_to_end(conversation.id)
        conversation.settle()
        return conversation

    def _part(self, session: str, conversation: Conversation, *, lost: bool = False) -> None:
        conversation.sessions.discard(session)
        if not conversation.sessions:
            conversation.left_at = time.monotonic()
            conversation.stop(lost=lost)

    def _drop_idle(self, visitor: str) -> None:
        """Let go of chats that nobody looks at: kept ones from memory, those of visitors who left for good."""
        long_ago = time.monotonic() - KEPT_SECONDS
        for conversation in list(self._open.values()):
            if not conversation.sessions and conversation.running is None and conversation.left_at < long_ago:
                self._let_go(conversation)
        if self.owner:
            return
        while self._left and next(iter(self._left.values())) < long_ago:
            self.history.erase_visitor(self._left.popitem(last=False)[0])
        for chat in self.history.chats(visitor, 10 * CHATS_A_VISITOR)[CHATS_A_VISITOR:]:
            if chat.id not in self._open or not self._open[chat.id].sessions:
                self._erase(chat.id)
        self._drop_beyond(self._most())

    def _drop_beyond(self, most: int) -> None:
        """Drop what is too much: first chats that no tab shows, and visits of programs that never say that they go."""
        idle = [known for known in self._open.values() if known.running is None]
        for conversation in sorted(idle, key=lambda known: bool(known.sessions))[: max(0, len(self._open) - most)]:
            self._let_go(conversation)
        for chat in self.history.beyond(most):
            if chat not in self._open:
                self.history.erase(chat)
        surplus = len(self._visits) - VISITS_A_CHAT * most
        for session, visit in list(self._visits.items())[: max(0, surplus)]:
            if visit.chat not in self._open or self._open[visit.chat].running is None:
                self._forget(session)

    def _erase(self, chat: str) -> None:
        self._open.pop(chat, None)
        self.history.erase(chat)

    def _let_go(self, conversation: Conversation) -> None:
        conversation.settle()
        del self._open[conversation.id]
        if conversation.history is not self.history or not self.owner:
            conversation.history.erase(conversation.id)
