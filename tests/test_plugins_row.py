"""The row of plugins on the Models tab, and the meter of the context, which counts what they do."""

from __future__ import annotations

from pathlib import Path

from plugin_kit import broken, name_in_settings

from llamaforge import LlamaForge, Message, register_plugin
from llamaforge_ui import Access
from llamaforge_ui.context_meter import meter
from llamaforge_ui.conversation import Conversation
from llamaforge_ui.guests import Guests
from llamaforge_ui.page import Page
from llamaforge_ui.plugins_row import plugins_view
from llamaforge_ui.turn import Turn


def page_of(forge: LlamaForge) -> Page:
    return Page(forge, Access(public=False), Guests(forge), "owner")


def test_the_row_has_every_plugin_that_the_model_may_have(echo: LlamaForge) -> None:
    register_plugin("mine", broken(about="Does nothing."))
    name_in_settings(echo, "mine", "{name: trimmer, turns: 0}")
    row = plugins_view(page_of(echo), "echo")
    labels, names = zip(*row["choices"], strict=True)
    assert names == ("mine", "trimmer", "template") and row["value"] == ["mine", "trimmer"]
    assert labels[0] == "mine — Does nothing."
    assert labels[1].startswith("trimmer — broken: ") and "settings.yaml line 1: turns must be" in labels[1]


def test_without_a_model_that_can_be_used_there_is_no_row(echo: LlamaForge, tmp_path: Path) -> None:
    echo.config.file_of("wrong").parent.mkdir(exist_ok=True)
    echo.config.file_of("wrong").write_text("backend: nothing\n", "utf-8")
    echo.config.reload()
    for name in (None, "wrong"):
        assert plugins_view(page_of(echo), name)["choices"] == []


def test_the_meter_counts_what_plugins_add_as_soon_as_they_are_on(echo: LlamaForge) -> None:
    page, conversation = page_of(echo), Conversation()
    conversation.turns = [Turn("user", "Hello"), Turn("assistant", "Hello")]
    plain = echo.prompt([*conversation.messages(), Message("user", "")])
    assert plain is not None and f">{plain.tokens} tokens<" in meter(page, conversation, "")
    echo.add_model("echo", "echo", "echo", plugins={"template": {"system": "one two three"}})
    wordy = echo.prompt([*conversation.messages(), Message("user", "")])
    assert wordy is not None and plain.tokens is not None and wordy.tokens == plain.tokens + 4
    assert f">{wordy.tokens} tokens<" in meter(page, conversation, "")
