"""The edge of the context window: refused, or the oldest turns left out; system prompt and new message never are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from scripted import PATIENCE
from tiny_gguf import write_tiny_gguf
from tiny_hf import write_tiny_hf

from llamaforge import ContextOverflow, Generation, LlamaForge, Message
from llamaforge.backends.base import BaseBackend
from llamaforge.overflow import FRAME, fitting
from llamaforge.types import Prompt

WINDOW = 512
LONG = "count the words of the text please " * 3


@pytest.fixture(scope="module", params=["llama.cpp", "worker", "huggingface"])
def forge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaForge]:
    folder = tmp_path_factory.mktemp("overflow")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    forge = LlamaForge(folder / "configs", isolate=request.param == "worker")
    if request.param == "huggingface":
        path = write_tiny_hf(folder / "hf", "Yes.", n_ctx_train=WINDOW)
        forge.add_model("tiny", str(path), "huggingface", {"device": "cpu"})
    else:
        path = write_tiny_gguf(folder / "m.gguf", "Yes.")
        forge.add_model("tiny", str(path), "llama.cpp", {"n_threads": 1, "n_ctx": WINDOW})
    forge.load_model("tiny")
    yield forge
    forge.unload_model()
    torch.set_num_threads(threads)


def chat_of(turns: int) -> list[Message]:
    """A system prompt, some turns with an answer each, and a new message."""
    chat = [Message("system", "Be short.")]
    for number in range(turns):
        chat += [Message("user", f"{number} {LONG}"), Message("assistant", f"{number} Yes.")]
    return [*chat, Message("user", "And the last one?")]


def ended(generation: Generation) -> Generation:
    assert generation.wait(PATIENCE) is not None
    return generation


def test_a_chat_that_does_not_fit_is_refused_by_default(forge: LlamaForge) -> None:
    answer = ended(forge.chat_stream(chat_of(20)))
    assert answer.result is not None and isinstance(answer.result.error, ContextOverflow)


@pytest.mark.parametrize("turns", [12, 20, 200])
def test_the_oldest_turns_are_left_out_where_that_is_wanted(forge: LlamaForge, turns: int) -> None:
    chat = chat_of(turns)
    answer = ended(forge.chat_stream(chat, overflow="drop"))
    result = answer.result
    assert result is not None and result.error is None and answer.text == "Yes."
    dropped = result.dropped
    assert 0 < dropped < 2 * turns and dropped % 2 == 0
    given = [chat[0], *chat[1 + dropped :]]
    prompt = forge.prompt(given)
    assert prompt is not None and prompt.tokens is not None and result.usage is not None
    assert result.usage.prompt_tokens == prompt.tokens <= WINDOW - WINDOW // 4
    assert prompt.tokens > WINDOW // 4  # a step was left out, and no more


def test_turn_after_turn_begins_alike_until_a_step_is_due(forge: LlamaForge) -> None:
    chat, steps, before = chat_of(0)[:1], [], 0
    for turn in range(40):
        chat.append(Message("user", f"{turn} {LONG}"))
        answer = ended(forge.chat_stream(chat, overflow="drop"))
        chat.append(Message("assistant", answer.text))
        assert answer.result is not None and answer.result.usage is not None, answer.result
        usage, dropped = answer.result.usage, answer.result.dropped
        if dropped == (steps[-1] if steps else 0):
            assert usage.cached_tokens >= before, turn  # no old token was evaluated
        else:
            steps.append(dropped)
        before = usage.prompt_tokens + usage.completion_tokens - 1  # the last one was never evaluated
    assert 4 <= len(steps) <= 12
    assert all(later - earlier >= 4 for earlier, later in pairwise(steps))


def test_the_cut_is_the_same_whatever_was_said_before(forge: LlamaForge) -> None:
    chat = chat_of(30)
    first = ended(forge.chat_stream(chat, overflow="drop")).result
    for other in (chat_of(12), [Message("user", "Something else")]):
        ended(forge.chat_stream(other, overflow="drop"))
    again = ended(forge.chat_stream(chat, overflow="drop")).result
    assert first is not None and again is not None and first.dropped == again.dropped


def test_a_chat_that_fits_loses_nothing(forge: LlamaForge) -> None:
    answer = ended(forge.chat_stream(chat_of(2), overflow="drop"))
    assert answer.result is not None and answer.result.dropped == 0


def test_room_is_left_for_an_answer_of_the_length_that_is_set(forge: LlamaForge) -> None:
    short, long = (
        ended(forge.chat_stream(chat_of(20), {"max_tokens": most}, overflow="drop")).result for most in (16, 500)
    )
    assert short is not None and long is not None
    assert short.dropped < long.dropped
    assert long.usage is not None and long.usage.prompt_tokens <= WINDOW // 2


def test_a_message_that_is_too_long_alone_is_refused_all_the_same(forge: LlamaForge) -> None:
    chat = [*chat_of(5)[:-1], Message("user", LONG * 40)]
    answer = ended(forge.chat_stream(chat, overflow="drop"))
    assert answer.result is not None and isinstance(answer.result.error, ContextOverflow)


def test_how_much_is_left_out_is_known_before_the_first_word(tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    path = write_tiny_gguf(tmp_path / "m.gguf", "Yes.")
    forge.add_model("tiny", str(path), "llama.cpp", {"n_threads": 1, "n_ctx": WINDOW})
    forge.load_model("tiny")
    answer = forge.chat_stream(chat_of(20), overflow="drop")
    next(iter(answer))
    assert answer.dropped > 0
    forge.unload_model()


class Wordy(BaseBackend):
    """Counts words, and how often it is asked to."""

    def __init__(self, window: int | None) -> None:
        self.context_window = window
        self.asked = 0

    def render(self, messages: object) -> Prompt:
        self.asked += 1
        texts = [message.content for message in messages]  # type: ignore[attr-defined]
        return Prompt("", sum(len(text.split()) for text in texts))

    def count_tokens(self, text: str) -> int:
        self.asked += 1
        return len(text.split())


def test_a_thousand_turns_are_cut_in_a_few_looks() -> None:
    backend = Wordy(400)
    kept, dropped = fitting(backend, chat_of(1000), None)
    assert kept[0].role == "system" and kept[1].role == "user" and kept[-1].content == "And the last one?"
    assert dropped == 2001 - len(kept) + 1
    assert backend.asked < 32


def test_what_goes_depends_on_the_old_messages_alone() -> None:
    cuts = [fitting(Wordy(400), chat_of(turns), None)[1] for turns in range(60)]
    assert cuts == sorted(cuts) and len(set(cuts)) <= 60 * 40 // 100 + 1
    for cut in set(cuts) - {0}:
        before = sum(len(message.content.split()) + FRAME for message in chat_of(60)[1 : cut + 1])
        assert before % 100 < 22 + 2 * FRAME  # behind a whole number of quarters, by one exchange at most


def test_where_nobody_counts_texts_no_more_goes_than_has_to() -> None:
    class Reticent(Wordy):
        def count_tokens(self, text: str) -> None:  # type: ignore[override]
            return None

    chat = chat_of(40)
    kept, dropped = fitting(Reticent(400), chat, None)
    assert 0 < dropped and kept[-1] == chat[-1]
    words = sum(len(message.content.split()) for message in chat[:1] + chat[1 + dropped - 2 :])
    assert words + 100 > 400


def test_where_nobody_knows_the_window_nothing_is_left_out() -> None:
    chat = chat_of(1000)
    assert fitting(Wordy(None), chat, None) == (chat, 0)


def test_a_continued_answer_keeps_its_question() -> None:
    chat = [*chat_of(20), Message("assistant", "It is")]
    kept, dropped = fitting(Wordy(60), chat, None)
    assert dropped and [message.content for message in kept[-2:]] == ["And the last one?", "It is"]
