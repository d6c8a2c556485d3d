"""What guests may ask of the model: every limit is a sentence with a number, and the owner is not held up by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import PATIENCE, ScriptedBackend, until

from llamaforge import Generation, GuestLimit, LlamaForge, Message, NoModelLoaded, SamplingParameters, register_backend
from llamaforge_ui.guests import Guests, may_use

MINUTE = 60


class Guarded(ScriptedBackend):
    """A local engine that notes what it is asked with."""

    Parameters = SamplingParameters
    settings: dict[str, Any] = {}

    def generate_stream(self, prompt: str, parameters: Any = None) -> Any:
        type(self).settings = dict(parameters or {})
        return super().generate_stream(prompt, parameters)


class Paid(Guarded):
    is_service = True


@pytest.fixture
def forge(forge: Callable[..., LlamaForge], tmp_path: Path) -> LlamaForge:
    """The model "mine" is loaded; the owner's limits are small."""
    register_backend("scripted", Guarded)
    register_backend("paid", Paid)
    (tmp_path / "configs").mkdir()
    write(tmp_path, messages_per_10_minutes=3, all_messages_per_10_minutes=5, waiting=1, max_tokens=64)
    made = forge()
    made.add_model("mine", "x", "scripted")
    made.load_model("mine")
    return made


def write(folder: Path, **limits: Any) -> None:
    lines = "".join(f"  {name}: {value}\n" for name, value in limits.items())
    (folder / "configs" / "settings.yaml").write_text(f"guests:\n{lines}", "utf-8")


@pytest.fixture
def guests(forge: LlamaForge) -> Guests:
    return Guests(forge)


def ask(guests: Guests, visitor: str = "ada", text: str = "Hello", before: int = 0) -> Any:
    return guests.answer(visitor, [*(Message("user", "earlier") for _ in range(before)), Message("user", text)])


def answered(guests: Guests, forge: LlamaForge, visitor: str) -> None:
    generation = ask(guests, visitor)
    backend(forge).say("word", None)
    assert generation.wait(PATIENCE) is not None


def backend(forge: LlamaForge) -> ScriptedBackend:
    assert forge._engine is not None
    loaded = forge._engine.backend
    assert isinstance(loaded, ScriptedBackend)
    return loaded


def refusal(guests: Guests, *arguments: Any, **named: Any) -> str:
    with pytest.raises(GuestLimit) as raised:
        ask(guests, *arguments, **named)
    return str(raised.value)


def test_a_guest_is_answered(guests: Guests, forge: LlamaForge) -> None:
    generation = ask(guests)
    backend(forge).say("word", None)
    assert generation.wait(PATIENCE).text == "word"


def test_a_long_message_is_refused_with_both_lengths(guests: Guests) -> None:
    sentence = "Your message has 8,001 characters; guests may send 8,000. Shorten it."
    assert refusal(guests, text="x" * 8001) == sentence


def test_a_long_chat_is_refused(guests: Guests) -> None:
    assert refusal(guests, before=39) == "This chat has reached 40 messages. Start a new chat to go on."


def test_one_guest_alone_is_held_back_and_told_how_long(guests: Guests, forge: LlamaForge) -> None:
    for _ in range(3):
        answered(guests, forge, "ada")
    sentence = refusal(guests)
    assert sentence.startswith("You are sending messages too quickly. Wait ")
    assert 9 * MINUTE <= int(sentence.split()[-2]) <= 10 * MINUTE
    answered(guests, forge, "bob")


def test_many_guests_together_are_held_back(guests: Guests, forge: LlamaForge) -> None:
    for number in range(5):
        answered(guests, forge, f"guest {number}")
    assert refusal(guests, "another").startswith("Many people are chatting right now. Wait ")


def test_a_refused_message_does_not_count(guests: Guests, forge: LlamaForge) -> None:
    for _ in range(10):
        refusal(guests, text="x" * 9000)
    answered(guests, forge, "ada")


def one_running_and_one_waiting(guests: Guests) -> tuple[Generation, Generation]:
    running = ask(guests, "ada")
    until(lambda: running.running)
    return running, ask(guests, "bob")


def test_who_waits_behind_too_many_is_told_so(guests: Guests, forge: LlamaForge) -> None:
    running, waiting = one_running_and_one_waiting(guests)
    assert refusal(guests, "eve") == "Too many guests wait for an answer already: 1. Try again in a minute."
    for generation in (waiting, running):
        generation.stop()


def test_the_owner_goes_before_waiting_guests(guests: Guests, forge: LlamaForge) -> None:
    running, waiting = one_running_and_one_waiting(guests)
    owners = forge.chat_stream([Message("user", "owner's")])
    assert (forge.position(owners), forge.position(waiting)) == (1, 2)
    for generation in (waiting, owners, running):
        generation.stop()


@pytest.mark.parametrize(("of_the_file", "given"), [({}, 64), ({"max_tokens": 10}, 10), ({"max_tokens": 500}, 64)])
def test_an_answer_is_as_long_as_the_shorter_limit(
    guests: Guests, forge: LlamaForge, of_the_file: dict[str, Any], given: int
) -> None:
    forge.add_model("mine", "x", "scripted", of_the_file)
    answered(guests, forge, "ada")
    assert Guarded.settings["max_tokens"] == given


def test_an_answer_that_takes_too_long_is_stopped_also_where_nobody_reads_it(
    guests: Guests, forge: LlamaForge, tmp_path: Path
) -> None:
    write(tmp_path, answer_seconds=1)
    forge.config.reload()
    generation = ask(guests)
    backend(forge).say("It goes on")
    result = generation.wait(PATIENCE)
    assert result is not None and result.finish_reason == "cancelled"
    assert result.text == "It goes on"


def test_closing_stops_what_runs_and_refuses_what_comes(guests: Guests, forge: LlamaForge) -> None:
    running = ask(guests)
    until(lambda: running.running)
    guests.close()
    assert running.wait(PATIENCE).finish_reason == "cancelled"
    assert refusal(guests, "bob") == "The owner has closed this chat to guests."
    guests.reopen()
    answered(guests, forge, "bob")


@pytest.mark.parametrize("text", ["guests:\n  open: false\n", "guests:\n  max_tokens: none at all\n"])
def test_where_the_settings_close_or_cannot_be_read_guests_stay_out(
    guests: Guests, forge: LlamaForge, tmp_path: Path, text: str
) -> None:
    (tmp_path / "configs" / "settings.yaml").write_text(text, "utf-8")
    forge.config.reload()
    guests.reopen()
    assert refusal(guests) == "The owner has closed this chat to guests."


def test_limits_hold_as_soon_as_they_are_read_again(guests: Guests, forge: LlamaForge, tmp_path: Path) -> None:
    write(tmp_path, message_characters=3)
    forge.config.reload()
    assert "guests may send 3" in refusal(guests, text="Hello")


@pytest.mark.parametrize(
    ("backend", "stated", "allowed"),
    [
        ("scripted", None, True),
        ("scripted", False, False),
        ("paid", None, False),
        ("paid", True, True),
    ],
)
def test_a_paid_model_needs_the_owners_word(
    guests: Guests, forge: LlamaForge, backend: str, stated: bool | None, allowed: bool
) -> None:
    forge.add_model("other", "x", backend, guests=stated)
    forge.load_model("other")
    assert may_use(forge.model("other")) is allowed
    if allowed:
        ask(guests).stop()
    else:
        assert refusal(guests) == "The owner has not opened this model to guests."


def test_a_model_that_was_taken_out_of_the_list_answers_no_guest(guests: Guests, forge: LlamaForge) -> None:
    forge.remove_model("mine")
    with pytest.raises(NoModelLoaded):
        ask(guests)
