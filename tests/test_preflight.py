"""What the person at the terminal is told before and after a page is shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llamaforge import GuestLimits, LlamaForge
from llamaforge_ui import Address, announcement, findings

Write = Callable[..., LlamaForge]
KEY = "sk-plain-text-0123456789"
PAID = "backend: openai\npath: gpt\nparameters:\n  api_base: https://api.example.org/v1\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write settings and one model, and return what is read of them."""
    (tmp_path / "models").mkdir()

    def write_both(settings: str = "", model: str = "backend: echo\npath: x\n") -> LlamaForge:
        (tmp_path / "settings.yaml").write_text(settings, "utf-8")
        (tmp_path / "models" / "mine.yaml").write_text(model, "utf-8")
        return LlamaForge(tmp_path)

    return write_both


def told(forge: LlamaForge, level: str, *, first: str | None = "mine", remote_code: bool = False) -> list[str]:
    found = findings(forge, first, remote_code=remote_code)
    return [finding.text for finding in found if finding.level == level and "root" not in finding.text]


def test_a_plain_folder_may_be_shared(write: Write) -> None:
    assert told(write(), "red") == told(write(), "yellow") == []


def test_settings_that_cannot_be_read_stop_it(write: Write) -> None:
    (text,) = told(write("guests:\n  max_tokens: many\n"), "red")
    assert text.startswith("The limits for guests cannot be read, so guests stay out.") and "line 2" in text


def test_a_key_in_plain_text_stops_it_and_is_not_repeated(write: Write) -> None:
    (text,) = told(write(model=f"{PAID}  api_key: {KEY}\n"), "red")
    assert text.startswith("models/mine.yaml has a key in plain text.") and KEY not in text


def test_a_key_by_its_variables_name_does_not(write: Write) -> None:
    assert told(write(model=f"{PAID}  api_key: ${{OPENAI_API_KEY}}\n"), "red") == []


def test_remote_code_stops_it(write: Write) -> None:
    assert "--allow-remote-code is for this computer alone" in told(write(), "red", remote_code=True)[0]


def test_a_paid_model_that_guests_may_use_is_named(write: Write) -> None:
    assert told(write(model=f"guests: true\n{PAID}"), "yellow") == [
        "Guests may use mine: what they ask is billed to its key."
    ]


def test_a_model_of_the_start_that_guests_may_not_use_is_named(write: Write) -> None:
    sentence = "Guests may not use mine. To let them: guests: true in its file."
    assert told(write(model=PAID), "yellow") == [sentence]
    assert told(write(model=PAID), "yellow", first="another") == []


def test_closed_settings_and_plugins_are_named(write: Write) -> None:
    texts = told(write("guests:\n  open: false\nplugins: [json]\n"), "yellow")
    assert texts == [
        "settings.yaml closes this page to guests (guests: open: false).",
        "Plugins run with all your rights: json.",
    ]


def test_a_broken_model_stops_nothing(write: Write) -> None:
    assert told(write(model="backend: [\n"), "red") == []


def said(passphrase: str | None = "four-words-of-mine", *, public: bool = True, share: bool = True) -> str:
    others = "https://abc.gradio.live" if share else "http://192.168.1.7:7860"
    address = Address("http://127.0.0.1:7860/", others, share)
    return announcement(address, GuestLimits(max_tokens=99), passphrase, public=public)


def test_the_terminal_says_both_addresses_the_passphrase_and_what_guests_may_do() -> None:
    lines = said().splitlines()
    assert lines[1] == "Guests (chat only):  https://abc.gradio.live"
    assert lines[2] == "You (owner):         http://127.0.0.1:7860/owner   passphrase: four-words-of-mine"
    assert "Guests may chat with the loaded model" in lines[3] and "99 tokens" in lines[4]
    assert "Share links pass through Gradio's servers" in lines[5]


def test_in_a_network_it_says_that_nothing_is_encrypted() -> None:
    assert "Nothing is encrypted on the way" in said(share=False)
    assert "Gradio's servers" not in said(share=False)


def test_without_a_passphrase_it_says_how_to_have_one() -> None:
    assert "set LLAMAFORGE_OWNER_PASSWORD and start again" in said(None)


def test_on_this_computer_alone_it_says_no_more_than_the_address() -> None:
    assert said(None, public=False) == "LlamaForge is at http://127.0.0.1:7860/"
