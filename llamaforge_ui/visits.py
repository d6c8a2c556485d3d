"""Who sees which chat: visitors, their browser tabs, and the chats that these show. Knows no Gradio."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from llamaforge import LlamaForgeError

from .conversation import Conversation
from .history import Found, History
from .history_file import HistoryError

SHOWN_TURNS = 40
LISTED = 100
KEPT_SECONDS = 3600.0  # for a reload, or a tab that comes back
SHORTEST_KEY = 32
SETTLE_SECONDS = 1.0
VISITS_A_CHAT = 5
MOST_EXPORTED = 10_000


class SessionEnded(LlamaForgeError):
    """The chat that a tab shows is gone; what is typed there is not."""


@dataclass(slots=True)
class Visit:
    """One open browser tab: whose it is, and which chat it shows."""

    visitor: str
    key: str  # that only this tab knows, also after a reload
    arrived: bool = False  # whether a page has been opened for it
    chat: str = ""
    turns: int = SHOWN_TURNS  # how many of the chat's last turns it shows
    listed: int = LISTED  # how many chats its list shows
    search: str = ""  # what the list is searched for


@dataclass(slots=True)
class Visitor:
    """Somebody whose chats vanish with them."""

    sessions: set[str] = field(default_factory=set)
    left_at: float = 0.0


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
        self._visits: dict[str, Visit] = {}
        self._visitors: dict[str, Visitor] = {}
        self._open: OrderedDict[str, Conversation] = OrderedDict()
        self._lock = threading.RLock()

    # Tabs

    def attach(self, session: str, key: str) -> Conversation:
        """Give a browser tab the chat that it had before a reload, by the key that only that tab knows."""
        with self._lock:
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
            if visit is not None and visit.chat in self._open:
                return self._use(self._open[visit.chat])
            if visit is not None:  # nobody used it for an hour
                return self._show(session, visit, self._find(visit.visitor, visit.chat) or self._new(visit.visitor))
            visitor = self.owner or secrets.token_hex(16)
            visit = Visit(visitor, secrets.token_hex(16))
            return self._show(session, visit, Conversation(self.temporary, visitor))

    def shown(self, session: str, key: str, chat: str) -> Conversation:
        """Return the chat that a tab shows, also where this program was started anew since the tab was opened.

        Raises:
            SessionEnded: it is gone; the tab has a new, empty one from now on.
        """
        with self._lock:
            visit = self._visits.get(session)
            if visit is None or visit.key != key:
                conversation = self.attach(session, key)
                visit = self._visits[session]
            else:
                conversation = self.of(session)
            if not chat or conversation.id == chat:
                return conversation
            found = self._find(visit.visitor, chat)
            if found is not None:
                return self._show(session, visit, found)
            if not self.owner:
                raise SessionEnded("Your session ended. Your text is still in the box; press Send again.")
            return conversation

    def leave(self, session: str) -> None:
        """A tab was closed: stop its answer unless another tab shows it; the text stays for a reload."""
        with self._lock:
            visit = self._visits.pop(session, None)
            conversation = self._open.get(visit.chat) if visit else None
            if visit is not None and (visitor := self._visitors.get(visit.visitor)):
                visitor.sessions.discard(session)
                visitor.left_at = time.monotonic()
        if conversation is None:
            return
        self._part(session, conversation, lost=True)
        if not conversation.sessions and conversation.turns and conversation.turns[-1].generation is not None:
            conversation.turns[-1].generation.wait(SETTLE_SECONDS)
        conversation.settle()
        with suppress(HistoryError):  # a full disk; what was said is kept as it was said
            conversation.save_settings()

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
        return self.history.search(visit.visitor, visit.search, visit.listed + 1)

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
            visit.turns = SHOWN_TURNS
        visit.chat = conversation.id
        self._visits[session] = visit
        with suppress(HistoryError):  # a full disk; such a tab begins with a new chat when it is loaded again
            self.history.remember_tab(visit.key, conversation.id)
        visitor = self._visitors.setdefault(visit.visitor, Visitor())
        visitor.sessions.add(session)
        conversation.sessions.add(session)
        self._open[conversation.id] = conversation
        self._drop_idle()
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

    def _drop_idle(self) -> None:
        """Let go of chats that nobody looks at: kept ones from memory, those of visitors who left for good."""
        long_ago = time.monotonic() - KEPT_SECONDS
        for conversation in list(self._open.values()):
            if not conversation.sessions and conversation.running is None and conversation.left_at < long_ago:
                self._let_go(conversation)
        if self.owner:
            return
        for name, visitor in list(self._visitors.items()):
            if not visitor.sessions and visitor.left_at < long_ago:
                del self._visitors[name]
                self.history.erase_visitor(name)
        self._drop_beyond(self._most())
        for session in list(self._visits)[: -VISITS_A_CHAT * self._most()]:
            self.leave(session)  # programs may come and never say that they go

    def _drop_beyond(self, most: int) -> None:
        idle = [chat for chat, known in self._open.items() if known.running is None]
        for chat in idle[: max(0, len(self._open) - most)]:
            self._let_go(self._open[chat])
        for chat in self.history.beyond(most):
            if chat not in self._open:
                self.history.erase(chat)

    def _let_go(self, conversation: Conversation) -> None:
        conversation.settle()
        del self._open[conversation.id]
        if conversation.history is not self.history or not self.owner:
            conversation.history.erase(conversation.id)
