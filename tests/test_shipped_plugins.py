"""The plugins that come with LlamaForge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamaforge import LlamaForge, Message
from llamaforge.plugins import get_plugin
from llamaforge.plugins.base import LoadedModel


def chat_of(turns: int, system: str = "Be kind.") -> list[Message]:
    said = [Message(role, f"{role} {turn}") for turn in range(turns) for role in ("user", "assistant")]  # type: ignore[arg-type]
    return [Message("system", system), *said[:-1]]


def run(
    plugin: str, settings: Mapping[str, Any], chat: list[Message], **model: Any
) -> tuple[list[Message], list[str]]:
    kind = get_plugin(plugin)
    made = kind(kind.Settings(**settings), LoadedModel(**model))
    return list(made.before(chat)), made.notes


def test_the_trimmer_keeps_the_system_prompt_and_the_latest_turns_and_says_so() -> None:
    chat = chat_of(20)
    kept, notes = run("trimmer", {"turns": 8}, chat)
    assert kept == [chat[0], *chat[-15:]]
    assert notes == ["24 older messages were left out."]
    assert run("trimmer", {"turns": 20}, chat) == (chat, [])


def test_the_trimmer_leaves_the_same_beginning_for_some_turns() -> None:
    firsts = [run("trimmer", {"turns": 8}, chat_of(turns))[0][1].content for turns in range(7, 15)]
    assert firsts == ["user 0", "user 0", "user 2", "user 2", "user 4", "user 4", "user 6", "user 6"]


def test_the_trimmer_keeps_a_share_of_the_window_and_at_least_the_last_turn() -> None:
    chat = chat_of(20)
    kept, _ = run("trimmer", {"turns": 8, "share": 0.5}, chat, context_window=20, count=len)
    assert kept == [chat[0], *chat[-7:]]
    kept, _ = run("trimmer", {"share": 0.1}, chat, context_window=10, count=len)
    assert kept == [chat[0], chat[-1]]


def test_the_trimmer_tells_the_edge_of_the_context(echo: LlamaForge) -> None:
    echo.add_model("echo", "echo", "echo", plugins={"trimmer": {"turns": 2}})
    answer = echo.chat_stream(chat_of(5))
    answer.wait()
    assert answer.dropped == 6 and [note.text for note in answer.notes] == ["6 older messages were left out."]


def test_the_template_fills_its_placeholders_and_leaves_other_braces() -> None:
    settings = {"system": "You are {model}. {unknown}", "user": "{message} {'a': 1}"}
    kept, _ = run("template", settings, chat_of(2), name="Bob")
    assert [message.content for message in kept] == [
        "You are Bob. {unknown}\n\nBe kind.",
        "user 0 {'a': 1}",
        "assistant 0",
        "user 1 {'a': 1}",
    ]
    kept, _ = run("template", {"system": "Hi."}, [Message("user", "{date}")])
    assert kept == [Message("system", "Hi."), Message("user", "{date}")]


def test_the_shipped_plugins_are_off_until_a_model_turns_them_on(echo: LlamaForge) -> None:
    assert {use.name: (use.enabled, bool(use.about)) for use in echo.plugins("echo")} == {
        "trimmer": (False, True),
        "template": (False, True),
    }
