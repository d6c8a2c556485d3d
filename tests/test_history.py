"""What is kept of conversations: one file that survives kills, upgrades and strangers, and finds every word again."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import ROOT

from llamaforge import Image
from llamaforge_ui import history as history_module
from llamaforge_ui.history import MARK_BEGIN, MARK_END, ChatRecord, History, Record, new_id
from llamaforge_ui.history_file import STEPS, HistoryError

WRITER = """
import sys
from pathlib import Path
from llamaforge_ui.history import *
history = History(Path(sys.argv[1]))
history.add_chat("ada", ChatRecord("chat", "A title"))
ids = history.add_messages("chat", [Record(0, None, "user", "Count"), Record(0, None, "assistant", "")])
for number in range(10**9):
    history.journal(ids[1], f"{number} ", "")
    print(number, flush=True)
"""


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History(tmp_path / "chats.sqlite3")
    yield history
    history.close()


def add(history: History, visitor: str, *texts: str, title: str = "") -> str:
    """Keep a chat in which the visitor and a model said some texts; return its id."""
    chat = ChatRecord(new_id(), title)
    history.add_chat(visitor, chat)
    roles = ("user", "assistant")
    history.add_messages(chat.id, [Record(0, None, roles[place % 2], text) for place, text in enumerate(texts)])
    return chat.id


def texts(history: History, chat: str) -> list[str]:
    return [record.text for record in history.messages(chat)]


def test_messages_follow_one_another(history: History) -> None:
    chat = add(history, "ada", "One", "Two", "Three")
    records = history.messages(chat)
    assert [record.role for record in records] == ["user", "assistant", "user"]
    assert [record.parent for record in records] == [None, records[0].id, records[1].id]
    found = history.chat("ada", chat)
    assert found is not None and found.leaf == records[2].id


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    history = History(tmp_path / "chats.sqlite3")
    chat = add(history, "ada", "One", "Two", title="A title")
    history.change_chat(chat, system_prompt="Be short.", settings={"overflow": "drop"}, pinned=True)
    before = history.chat("ada", chat)
    history.close()
    again = History(tmp_path / "chats.sqlite3")
    assert again.chat("ada", chat) == before
    assert texts(again, chat) == ["One", "Two"]
    again.close()


def test_a_kill_at_any_moment_loses_no_word_that_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite3"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
        assert writer.stdout is not None
        shown = [int(next(writer.stdout)) for _ in range(200)]
        writer.send_signal(signal.SIGKILL)
    history = History(path)
    written = texts(history, "chat")[1].split()
    assert [int(number) for number in written[: len(shown)]] == shown
    assert texts(history, "chat")[1].split() == written  # the same, once it is folded in
    history.close()


def test_the_file_is_the_persons_own(tmp_path: Path) -> None:
    History(tmp_path / "deep" / "chats.sqlite3").close()
    assert stat.S_IMODE(os.stat(tmp_path / "deep" / "chats.sqlite3").st_mode) == 0o600


def test_a_chat_is_nobody_elses(history: History) -> None:
    chat = add(history, "ada", "My secret")
    assert history.chat("bob", chat) is None
    assert history.search("bob", "secret") == []
    assert not history.delete("bob", chat)
    assert not history.restore("bob", chat)
    assert history.chat("ada", chat) is not None


# The list


def test_pinned_chats_come_first_then_the_newest(history: History) -> None:
    chats = [add(history, "ada", "Hello", title=title) for title in ("old", "middle", "new")]
    history.change_chat(chats[0], pinned=True)
    assert [found.title for found in history.chats("ada")] == ["old", "new", "middle"]
    history.add_messages(chats[1], [Record(0, None, "user", "Again")])
    assert [found.title for found in history.chats("ada")] == ["old", "middle", "new"]
    assert len(history.chats("ada", most=2)) == 2


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("quantum", ["physics"]),
        ("QUANT", ["physics"]),
        ("computing simple", ["physics"]),
        ("physics", ["physics"]),
        ("日本", ["travel"]),
        ("日本語の", ["travel"]),
        ("C+", ["code"]),
        ('"; DROP TABLE', ["code"]),
        ("100%", ["code"]),
        ("100_", []),
        ("quantum travel", []),
        ("  ", ["code", "travel", "physics"]),
    ],
)
def test_every_word_is_found(history: History, wanted: str, found: list[str]) -> None:
    add(
        history,
        "ada",
        "Explain quantum computing",
        "In simple terms",
        "a simple quantum computing text",
        title="physics",
    )
    add(history, "ada", "日本語の本", title="travel")
    add(history, "ada", "Is C++ 100% safe?", '"; DROP TABLE chats', title="code")
    assert [chat.title for chat in history.search("ada", wanted)] == found


def test_a_find_shows_its_place(history: History) -> None:
    add(history, "ada", "nothing", f"{'before ' * 50}needle{' after' * 50}")
    (found,) = history.search("ada", "needle")
    assert f"{MARK_BEGIN}needle{MARK_END}" in found.snippet
    assert len(found.snippet) < 200


def test_what_an_answer_became_is_found_and_what_it_was_is_not(history: History) -> None:
    chat = add(history, "ada", "Hello", "")
    answer = history.messages(chat)[1]
    answer.text = "a finished answer"
    history.journal(answer.id, "a half", "")
    history.finish(answer)
    assert [found.id for found in history.search("ada", "finished")] == [chat]
    assert history.search("ada", "half") == []
    assert texts(history, chat)[1] == "a finished answer"


# Deleting


def test_a_deleted_chat_is_in_no_list_and_comes_back_whole(history: History) -> None:
    chat = add(history, "ada", "Hello", "you", title="A title")
    assert history.delete("ada", chat)
    assert history.chats("ada") == history.search("ada", "Hello") == []
    assert history.chat("ada", chat) is None
    assert history.restore("ada", chat)
    assert [found.title for found in history.chats("ada")] == ["A title"]
    assert texts(history, chat) == ["Hello", "you"]


def test_after_an_hour_nothing_is_left_of_a_deleted_chat(
    history: History, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chat = add(history, "ada", "Hello")
    history.delete("ada", chat)
    monkeypatch.setattr(history_module, "UNDO_SECONDS", -1.0)
    History(tmp_path / "chats.sqlite3").close()
    assert not history.restore("ada", chat)
    assert texts(history, chat) == []


def test_erasing_a_visitor_leaves_the_others(history: History) -> None:
    adas, bobs = add(history, "ada", "Mine"), add(history, "bob", "Mine")
    history.erase_visitor("ada")
    assert texts(history, adas) == []
    assert texts(history, bobs) == ["Mine"]


def test_pictures_are_kept_with_their_message(history: History) -> None:
    chat = ChatRecord(new_id())
    history.add_chat("ada", chat)
    pictures = (Image(b"one", "image/png"), Image(b"two"))
    ids = history.add_messages(chat.id, [Record(0, None, "user", "Look", images=pictures)])
    assert history.images(ids[0]) == pictures
    assert history.with_images(chat.id) == set(ids)


def test_a_chat_with_branches_is_added_as_it_is(history: History) -> None:
    chat = ChatRecord(new_id(), leaf=12)
    records = [Record(7, None, "user", "One"), Record(9, 7, "assistant", "a"), Record(12, 7, "assistant", "b")]
    history.add_tree("ada", chat, records)
    kept = history.messages(chat.id)
    assert [record.parent for record in kept] == [None, kept[0].id, kept[0].id]
    found = history.chat("ada", chat.id)
    assert found is not None and found.leaf == kept[2].id


# Upgrades, and files that are none of ours


def test_an_upgrade_keeps_a_copy_of_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite3"
    history = History(path)
    chat = add(history, "ada", "Hello")
    history.close()
    newer = History(path, (*STEPS, "ALTER TABLE chats ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey'"))
    assert texts(newer, chat) == ["Hello"]
    assert newer._read("SELECT colour FROM chats")[0]["colour"] == "grey"
    newer.close()
    (copy,) = tmp_path.glob("chats.sqlite3.schema-1-*.backup")
    before = History(copy)
    assert texts(before, chat) == ["Hello"]
    assert "colour" not in before._read("SELECT * FROM chats")[0].keys()
    before.close()


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite3"
    history = History(path)
    chat = add(history, "ada", "Hello")
    history.close()
    with pytest.raises(HistoryError, match="was not changed"):
        History(path, (*STEPS, "ALTER TABLE chats ADD COLUMN colour TEXT; SELECT * FROM nothing"))
    again = History(path)
    assert texts(again, chat) == ["Hello"]
    assert "colour" not in again._read("SELECT * FROM chats")[0].keys()
    again.close()


def test_a_file_of_a_newer_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite3"
    History(path, (*STEPS, "CREATE TABLE more (x)")).close()
    before = path.read_bytes()
    with pytest.raises(HistoryError, match=r"newer LlamaForge .* Update LlamaForge"):
        History(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite3"
    path.write_bytes(b"These are my notes, not a database. " * 100)
    before = path.read_bytes()
    with pytest.raises(HistoryError, match="cannot be opened"):
        History(path)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", "utf-8")
    with pytest.raises(HistoryError, match="cannot be opened"):
        History(tmp_path / "file" / "chats.sqlite3")


def test_a_transaction_that_fails_leaves_nothing_half(history: History) -> None:
    chat = add(history, "ada", "Hello")
    unfit = Record(0, None, "user", "Two", about={})
    broken = Record(0, None, "user", sqlite3.connect)  # type: ignore[arg-type] - no text
    with pytest.raises(HistoryError):
        history.add_messages(chat, [unfit, broken])
    assert texts(history, chat) == ["Hello"]


def test_reading_while_an_answer_is_written_neither_doubles_nor_loses_a_word(history: History) -> None:
    chat = add(history, "ada", "Count", "")
    answer = history.messages(chat)[1]
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            history.messages(chat)

    reader = threading.Thread(target=read)
    reader.start()
    words = [f"{number} " for number in range(500)]
    for word in words:
        history.journal(answer.id, word, "")
    ended.set()
    reader.join()
    assert texts(history, chat)[1] == "".join(words)
    answer.text = "".join(words)
    history.finish(answer)
    assert texts(history, chat)[1] == "".join(words)


@pytest.mark.parametrize("wanted", ["привет", "ÜBER", "яб"])
def test_large_and_small_letters_of_every_script_are_the_same(history: History, wanted: str) -> None:
    chat = add(history, "ada", "Привет, яблоко", title="Über alles")
    assert [found.id for found in history.search("ada", wanted)] == [chat]


def test_a_long_chat_hides_no_other_from_a_search(history: History) -> None:
    short = add(history, "ada", "llama", title="short")
    add(history, "ada", *["llama"] * 1500, title="long")
    assert short in [found.id for found in history.search("ada", "llama")]
