"""The file that conversations are kept in: SQLite, opened so that a killed program loses nothing that was shown."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from llamaforge import LlamaForgeError

FILE_NAME = "chats.sqlite3"
IN_MEMORY = ":memory:"

# What each schema version adds to the one before; a version that was released is never changed.
STEPS = (
    """
    CREATE TABLE chats (
        id TEXT PRIMARY KEY,
        visitor TEXT NOT NULL,
        title TEXT NOT NULL DEFAULT '',
        system_prompt TEXT NOT NULL DEFAULT '',
        settings TEXT NOT NULL DEFAULT '{}',
        pinned INTEGER NOT NULL DEFAULT 0,
        leaf INTEGER,
        created REAL NOT NULL,
        changed REAL NOT NULL,
        deleted REAL
    );
    CREATE INDEX chats_of_visitor ON chats (visitor, pinned, changed);
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        chat TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
        parent INTEGER,
        role TEXT NOT NULL,
        text TEXT NOT NULL DEFAULT '',
        reasoning TEXT NOT NULL DEFAULT '',
        about TEXT NOT NULL DEFAULT '{}',
        created REAL NOT NULL
    );
    CREATE INDEX messages_of_chat ON messages (chat);
    CREATE TABLE images (
        id INTEGER PRIMARY KEY,
        message INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
        media_type TEXT NOT NULL,
        data BLOB NOT NULL
    );
    CREATE INDEX images_of_message ON images (message);
    CREATE TABLE journal (
        message INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
        text TEXT NOT NULL,
        reasoning TEXT NOT NULL
    );
    CREATE INDEX journal_of_message ON journal (message);
    CREATE TABLE tabs (
        key TEXT PRIMARY KEY,
        chat TEXT NOT NULL,
        seen REAL NOT NULL
    );
    CREATE VIRTUAL TABLE words USING fts5 (text, content='messages', content_rowid='id', tokenize='trigram');
    CREATE TRIGGER word_in AFTER INSERT ON messages BEGIN
        INSERT INTO words (rowid, text) VALUES (new.id, new.text);
    END;
    CREATE TRIGGER word_out AFTER DELETE ON messages BEGIN
        INSERT INTO words (words, rowid, text) VALUES ('delete', old.id, old.text);
    END;
    CREATE TRIGGER word_new AFTER UPDATE OF text ON messages BEGIN
        INSERT INTO words (words, rowid, text) VALUES ('delete', old.id, old.text);
        INSERT INTO words (rowid, text) VALUES (new.id, new.text);
    END;
    """,
)


class HistoryError(LlamaForgeError):
    """Conversations cannot be read or kept."""


def open_file(path: Path | None, steps: Sequence[str] = STEPS) -> sqlite3.Connection:
    """Open the file of conversations, a new one where there is none, and bring it to the newest schema.

    Args:
        path: where it is; None keeps them in memory.
        steps: the schema's versions, oldest first.

    Raises:
        HistoryError: it cannot be opened, or a newer LlamaForge wrote it; nothing in it was changed.
    """
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # before SQLite makes it readable for others
        # Autocommit: each transaction is begun where it belongs; threads are kept apart by History's own lock.
        connection = sqlite3.connect(path or IN_MEMORY, timeout=5, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise _cannot_open(path, error) from error
    try:
        connection.row_factory = sqlite3.Row
        _bring_up_to_date(connection, path, steps)
    except sqlite3.Error as error:
        connection.close()
        raise _cannot_open(path, error) from error
    except HistoryError:
        connection.close()
        raise
    return connection


def _bring_up_to_date(connection: sqlite3.Connection, path: Path | None, steps: Sequence[str]) -> None:
    # With a write-ahead log, what was written survives the end of this program at any moment, without a wait for the
    # disk at each word; the power supply may cost the last moment.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(steps):
        raise HistoryError(
            f"The conversations in {path} were written by a newer LlamaForge (schema {version}, this one knows "
            f"{len(steps)}). Update LlamaForge, or start with another --data folder. The file was not changed."
        )
    if 0 < version < len(steps) and path is not None:
        _back_up(connection, path, version)
    for number, step in enumerate(steps[version:], version + 1):
        with connection:  # rolls back where the script fails
            connection.executescript(f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT;")


def _back_up(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """Copy the file as it is before a migration; the copy is complete, or has another name."""
    copy = path.with_name(f"{path.name}.schema-{version}-{time.strftime('%Y%m%d-%H%M%S')}.backup")
    part = copy.with_suffix(".part")
    with contextlib.closing(sqlite3.connect(part)) as target:
        connection.backup(target)
    part.replace(copy)


def _cannot_open(path: Path | None, error: Exception) -> HistoryError:
    return HistoryError(f"The conversations in {path} cannot be opened ({error}). The file was not changed.")
