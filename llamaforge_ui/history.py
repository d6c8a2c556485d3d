"""Conversations in SQLite, each its visitor's own: what is kept, found, deleted and brought back. Knows no Gradio."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamaforge import Image

from .history_file import STEPS, HistoryError, open_file

UNDO_SECONDS = 3600.0  # a deleted chat can be brought back for so long
TAB_SECONDS = 30 * 24 * 3600.0
JOURNALED = "FROM journal j JOIN messages m ON m.id = j.message WHERE m.chat = ?"
MARK_BEGIN, MARK_END = "\x02", "\x03"  # around what was found in a snippet


@dataclass(slots=True)
class Record:
    """One message as it is kept; `parent` is the message before it, None for a first one."""

    id: int
    parent: int | None
    role: str
    text: str
    reasoning: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    created: float = 0.0
    images: tuple[Image, ...] = ()  # only of one that is added; History.images() reads them


@dataclass(slots=True)
class ChatRecord:
    """One chat as it is kept; `leaf` is the last message of the branch that is shown."""

    id: str
    title: str = ""
    system_prompt: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    pinned: bool = False
    leaf: int | None = None
    created: float = 0.0
    changed: float = 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """A chat in a list, with the place in it that was searched for, which is between MARK_BEGIN and MARK_END."""

    id: str
    title: str
    pinned: bool
    changed: float
    snippet: str = ""


def new_id() -> str:
    """Return an id that nobody can guess."""
    return secrets.token_hex(16)


class History:
    """Every kept conversation; safe to call from any thread. Nothing is found without its visitor.

    Args:
        path: the file; None keeps everything in memory, for as long as this object lives.
    """

    def __init__(self, path: Path | None = None, steps: Sequence[str] = STEPS) -> None:
        self._lock = threading.RLock()
        self._connection = open_file(path, steps)
        self._connection.create_function("casefold", 1, str.casefold, deterministic=True)  # SQLite knows ASCII alone
        self._purge()

    def close(self) -> None:
        """Write everything into the one file and let go of it."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for one transaction; it is all kept or not at all."""
        try:
            with self._lock, self._connection as connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
        except sqlite3.Error as error:
            raise HistoryError(f"This could not be kept ({error}). Is the disk full?") from error

    def _read(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._connection.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise HistoryError(f"The conversations cannot be read: {error}.") from error

    # Chats

    def add_chat(self, visitor: str, chat: ChatRecord) -> None:
        """Keep a new chat."""
        with self._writing() as connection:
            _insert_chat(connection, visitor, chat)

    def chat(self, visitor: str, chat: str) -> ChatRecord | None:
        """Return a visitor's chat; None where there is none of that id, or it is another's."""
        rows = self._read("SELECT * FROM chats WHERE id = ? AND visitor = ? AND deleted IS NULL", chat, visitor)
        return _chat(rows[0]) if rows else None

    def chats(self, visitor: str, most: int = 100) -> list[Found]:
        """Return a visitor's chats, pinned ones first, then the newest."""
        rows = self._read(
            "SELECT id, title, pinned, changed FROM chats WHERE visitor = ? AND deleted IS NULL"
            " ORDER BY pinned DESC, changed DESC LIMIT ?",
            visitor,
            most,
        )
        return [_found(row) for row in rows]

    def is_deleted(self, chat: str) -> bool:
        """Tell whether a chat was deleted and may still be brought back."""
        return bool(self._read("SELECT 1 FROM chats WHERE id = ? AND deleted IS NOT NULL", chat))

    def search(self, visitor: str, text: str, most: int = 100) -> list[Found]:
        """Return the chats in which every word of a text stands, in their title or in one message."""
        words = text.split()
        if not words:
            return self.chats(visitor, most)
        titles = " AND ".join("instr(casefold(c.title), ?)" for _ in words)
        places, values = _places_of(words)
        rows = self._read(
            f"SELECT c.id, c.title, c.pinned, c.changed, p.place FROM chats c"
            f" LEFT JOIN ({places}) p ON p.chat = c.id"
            f" WHERE c.visitor = ? AND c.deleted IS NULL AND (p.place IS NOT NULL OR ({titles}))"
            " ORDER BY c.pinned DESC, c.changed DESC LIMIT ?",
            *(*values, visitor, *(word.casefold() for word in words), most),
        )
        match = _match(words)
        return [_found(row, self._snippet(match, row["place"])) for row in rows]

    def _snippet(self, match: str, place: int | None) -> str:
        """Return what stands around the words that were found in a message."""
        if not match or place is None:
            return ""
        sql = f"SELECT snippet(words, 0, '{MARK_BEGIN}', '{MARK_END}', '…', 40) AS text FROM words"
        rows = self._read(f"{sql} WHERE words MATCH ? AND rowid = ?", match, place)
        return str(rows[0]["text"]) if rows else ""

    def change_chat(self, chat: str, **values: Any) -> None:
        """Change columns of a chat: title, system_prompt, settings, pinned or leaf."""
        if "settings" in values:
            values["settings"] = json.dumps(values["settings"])
        names = ", ".join(f"{name} = ?" for name in values)
        with self._writing() as connection:
            connection.execute(f"UPDATE chats SET {names} WHERE id = ?", (*values.values(), chat))

    def delete(self, visitor: str, chat: str) -> bool:
        """Delete a visitor's chat; for an hour it can be brought back. False where there is none."""
        self._purge()
        with self._writing() as connection:
            return self._mark(connection, visitor, chat, time.time())

    def restore(self, visitor: str, chat: str) -> bool:
        """Bring a deleted chat back; False where it is gone."""
        with self._writing() as connection:
            return self._mark(connection, visitor, chat, None)

    @staticmethod
    def _mark(connection: sqlite3.Connection, visitor: str, chat: str, deleted: float | None) -> bool:
        sql = "UPDATE chats SET deleted = ? WHERE id = ? AND visitor = ?"
        return connection.execute(sql, (deleted, chat, visitor)).rowcount == 1

    def erase(self, chat: str) -> None:
        """Delete a chat at once and for good."""
        with self._writing() as connection:
            connection.execute("DELETE FROM chats WHERE id = ?", (chat,))

    def erase_visitor(self, visitor: str) -> None:
        """Delete everything of a visitor's for good."""
        with self._writing() as connection:
            connection.execute("DELETE FROM chats WHERE visitor = ?", (visitor,))
            connection.execute("DELETE FROM tabs WHERE key = ?", (visitor,))

    def _purge(self) -> None:
        """Let go of what was deleted an hour ago, and of tabs that never came back."""
        now = time.time()
        with self._writing() as connection:
            connection.execute("DELETE FROM chats WHERE deleted < ?", (now - UNDO_SECONDS,))
            connection.execute("DELETE FROM tabs WHERE seen < ?", (now - TAB_SECONDS,))

    # Messages

    def messages(self, chat: str) -> list[Record]:
        """Return every message of a chat, on all its branches, in the order in which they came.

        What a killed program had journaled of an answer is part of it.
        """
        self._fold(chat)
        return [_record(row) for row in self._read("SELECT * FROM messages WHERE chat = ? ORDER BY id", chat)]

    def add_messages(self, chat: str, records: Sequence[Record]) -> list[int]:
        """Keep messages that follow one another and make the last one the chat's leaf; return their ids.

        Only the first one's parent counts: each other follows the one before.
        """
        ids: list[int] = []
        now = time.time()
        with self._writing() as connection:
            for record in records:
                parent = ids[-1] if ids else record.parent
                about = json.dumps(record.about)
                values = (chat, parent, record.role, record.text, record.reasoning, about, record.created or now)
                ids.append(_insert(connection, values))
                _insert_images(connection, ids[-1], record.images)
            connection.execute("UPDATE chats SET leaf = ?, changed = ? WHERE id = ?", (ids[-1], now, chat))
        return ids

    def add_tree(self, visitor: str, chat: ChatRecord, records: Sequence[Record]) -> None:
        """Keep a whole chat with its branches; parents and leaf are named by the records' own ids.

        Args:
            records: a parent before its children.
        """
        ids: dict[int | None, int | None] = {None: None}
        now = time.time()
        with self._writing() as connection:
            _insert_chat(connection, visitor, chat)
            for record in records:
                about = json.dumps(record.about)
                parent = ids.get(record.parent)
                values = (chat.id, parent, record.role, record.text, record.reasoning, about, record.created or now)
                ids[record.id] = added = _insert(connection, values)
                _insert_images(connection, added, record.images)
            connection.execute("UPDATE chats SET leaf = ? WHERE id = ?", (ids.get(chat.leaf), chat.id))

    def finish(self, record: Record) -> None:
        """Keep an answer as it is at its end, in place of its journal."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE messages SET text = ?, reasoning = ?, about = ? WHERE id = ?",
                (record.text, record.reasoning, json.dumps(record.about), record.id),
            )
            connection.execute("DELETE FROM journal WHERE message = ?", (record.id,))

    def remove_messages(self, chat: str, ids: Sequence[int], leaf: int | None) -> None:
        """Take messages back that came to nothing, and show the branch that ends in `leaf` again."""
        with self._writing() as connection:
            connection.executemany("DELETE FROM messages WHERE id = ? AND chat = ?", [(one, chat) for one in ids])
            connection.execute("UPDATE chats SET leaf = ? WHERE id = ?", (leaf, chat))

    def journal(self, message: int, text: str, reasoning: str) -> None:
        """Keep the next words of an answer that is being written, before anybody sees them."""
        with self._writing() as connection:
            connection.execute("INSERT INTO journal VALUES (?, ?, ?)", (message, text, reasoning))

    def _fold(self, chat: str) -> None:
        """Put what was journaled of a chat's messages into them; at once: an answer may be written meanwhile."""
        if not self._read(f"SELECT 1 {JOURNALED} LIMIT 1", chat):
            return
        with self._writing() as connection:
            texts: dict[int, tuple[list[str], list[str]]] = {}
            sql = f"SELECT j.message, j.text, j.reasoning {JOURNALED} ORDER BY j.rowid"
            for row in connection.execute(sql, (chat,)):
                text, reasoning = texts.setdefault(row["message"], ([], []))
                text.append(row["text"])
                reasoning.append(row["reasoning"])
            for message, (text, reasoning) in texts.items():
                connection.execute(
                    "UPDATE messages SET text = text || ?, reasoning = reasoning || ? WHERE id = ?",
                    ("".join(text), "".join(reasoning), message),
                )
                connection.execute("DELETE FROM journal WHERE message = ?", (message,))

    def images(self, message: int) -> tuple[Image, ...]:
        """Return a message's pictures."""
        rows = self._read("SELECT media_type, data FROM images WHERE message = ? ORDER BY id", message)
        return tuple(Image(row["data"], row["media_type"]) for row in rows)

    def with_images(self, chat: str) -> set[int]:
        """Return the ids of a chat's messages that have pictures."""
        sql = "SELECT DISTINCT message FROM images JOIN messages m ON m.id = message WHERE m.chat = ?"
        return {row["message"] for row in self._read(sql, chat)}

    def beyond(self, most: int) -> list[str]:
        """Return the ids of all visitors' chats but the `most` that changed last, the longest idle first."""
        rows = self._read("SELECT id FROM chats ORDER BY changed DESC LIMIT -1 OFFSET ?", most)
        return [row["id"] for row in reversed(rows)]

    # Tabs

    def remember_tab(self, key: str, chat: str) -> None:
        """Note which chat a browser's tab shows, for when it is loaded again."""
        with self._writing() as connection:
            connection.execute("INSERT OR REPLACE INTO tabs VALUES (?, ?, ?)", (key, chat, time.time()))

    def chat_of_tab(self, key: str) -> str | None:
        """Return the id of the chat that a tab showed; None where it is not known."""
        rows = self._read("SELECT chat FROM tabs WHERE key = ?", key)
        return rows[0]["chat"] if rows else None


def _insert_chat(connection: sqlite3.Connection, visitor: str, chat: ChatRecord) -> None:
    now = time.time()
    connection.execute(
        "INSERT INTO chats (id, visitor, title, system_prompt, settings, pinned, created, changed)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (chat.id, visitor, chat.title, chat.system_prompt, json.dumps(chat.settings), chat.pinned, now, now),
    )


def _insert(connection: sqlite3.Connection, values: tuple[Any, ...]) -> int:
    sql = "INSERT INTO messages (chat, parent, role, text, reasoning, about, created) VALUES (?, ?, ?, ?, ?, ?, ?)"
    added = connection.execute(sql, values).lastrowid
    assert added is not None
    return added


def _insert_images(connection: sqlite3.Connection, message: int, images: Sequence[Image]) -> None:
    connection.executemany(
        "INSERT INTO images (message, media_type, data) VALUES (?, ?, ?)",
        [(message, image.media_type, image.data) for image in images],
    )


def _chat(row: sqlite3.Row) -> ChatRecord:
    return ChatRecord(
        row["id"],
        row["title"],
        row["system_prompt"],
        json.loads(row["settings"]),
        bool(row["pinned"]),
        row["leaf"],
        row["created"],
        row["changed"],
    )


def _record(row: sqlite3.Row) -> Record:
    return Record(
        row["id"],
        row["parent"],
        row["role"],
        row["text"],
        row["reasoning"],
        json.loads(row["about"]),
        row["created"],
    )


def _found(row: sqlite3.Row, snippet: str = "") -> Found:
    return Found(row["id"], row["title"], bool(row["pinned"]), row["changed"], snippet)


def _match(words: Sequence[str]) -> str:
    """Return the words as the index is asked for them; it knows three letters at least."""
    return " ".join('"' + word.replace('"', '""') + '"' for word in words if len(word) >= 3)


def _places_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return a query for the first message of each chat in which all words stand, and its values."""
    short = [word.casefold() for word in words if len(word) < 3]
    conditions = ["instr(casefold(m.text), ?)" for _ in short]
    source, values = "messages m", short
    if match := _match(words):
        source, values = "words JOIN messages m ON m.id = words.rowid", [match, *short]
        conditions.insert(0, "words MATCH ?")
    where = " AND ".join(conditions)
    return f"SELECT m.chat, min(m.id) AS place FROM {source} WHERE {where} GROUP BY m.chat", values
