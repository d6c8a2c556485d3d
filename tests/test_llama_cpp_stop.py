"""Stopping the real llama.cpp: in an answer, in a long prompt, quickly and often."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted import PATIENCE, until
from tiny_gguf import COUNTING_ANSWER, DEFAULT_ANSWER

from llamaforge import Generation, LlamaForge, Result, Usage

Load = Callable[..., LlamaForge]

LONG_PROMPT = "Hello" + " Hello" * 2999  # about 2.5 s of the slow model
AT_ONCE = 1.0  # seconds


def end_of(generation: Generation, seconds: float = AT_ONCE) -> Result:
    result = generation.wait(seconds)
    assert result is not None, "it did not stop"
    return result


def is_fine(forge: LlamaForge, prompt: str = "Say hello") -> Usage:
    """Ask once more, and return what that cost."""
    result = end_of(forge.generate_stream(prompt), PATIENCE)
    assert (result.text, result.finish_reason, result.error) == (DEFAULT_ANSWER, "stop", None)
    assert result.usage is not None
    return result.usage


def test_an_answer_stops_at_once_and_keeps_its_text(load: Load, endless_gguf: Path) -> None:
    forge = load(endless_gguf)
    answer = forge.generate_stream("hi")
    until(lambda: answer.length > 20)
    answer.stop()
    result = end_of(answer)
    assert (result.finish_reason, result.error) == ("cancelled", None)
    assert result.text.startswith(COUNTING_ANSWER * 2) and result.text == answer.text
    assert result.usage is not None and result.usage.completion_tokens >= 20


@pytest.mark.parametrize("n_batch", [128, 4096], ids=["between pieces of the prompt", "within one piece"])
def test_a_long_prompt_stops_at_once(load: Load, slow_gguf: Path, n_batch: int) -> None:
    forge = load(slow_gguf, n_ctx=4096, n_batch=n_batch)
    answer = forge.generate_stream(LONG_PROMPT)
    until(lambda: answer.running)
    assert answer.wait(0.3) is None and answer.text == ""
    answer.stop()
    result = end_of(answer)
    assert (result.text, result.finish_reason, result.error) == ("", "cancelled", None)
    assert result.usage is not None and result.usage.completion_tokens == 0 and result.usage.prompt_tokens > 3000
    is_fine(forge)


def test_after_a_stopped_prompt_the_next_answer_costs_what_a_fresh_one_does(load: Load, slow_gguf: Path) -> None:
    forge = load(slow_gguf, n_ctx=4096)
    fresh = is_fine(forge, "Write a story")
    forge.load_model("model", {"n_ctx": 4096})
    answer = forge.generate_stream("Tell" + " me" * 2999)
    until(lambda: answer.progress)
    answer.stop()
    end_of(answer)
    after = is_fine(forge, "Write a story")
    assert (after.prompt_tokens, after.completion_tokens) == (fresh.prompt_tokens, fresh.completion_tokens)
    assert after.cached_tokens < 5  # no more than how every prompt begins


def test_what_was_read_of_a_stopped_prompt_need_not_be_read_again(load: Load, slow_gguf: Path) -> None:
    forge = load(slow_gguf, n_ctx=4096, n_batch=256)
    prompt = LONG_PROMPT[:9000]
    answer = forge.generate_stream(prompt)
    until(lambda: (answer.progress or 0) > 0.3)
    answer.stop()
    end_of(answer)
    assert is_fine(forge, prompt).cached_tokens >= 512


def test_stop_before_the_engine_begins_is_heard(load: Load, slow_gguf: Path) -> None:
    forge = load(slow_gguf, n_ctx=4096)
    for _ in range(20):
        answer = forge.generate_stream(LONG_PROMPT)
        answer.stop()
        assert end_of(answer).finish_reason == "cancelled"
    is_fine(forge)


def test_stop_then_send_fifty_times(load: Load, endless_gguf: Path) -> None:
    forge = load(endless_gguf)
    for number in range(50):
        answer = forge.generate_stream(f"question {number}")
        pieces = iter(answer)
        assert next(pieces) == "one "
        answer.stop()
    assert forge.generate("hi", {"max_tokens": 10}) == COUNTING_ANSWER


def test_stopping_many_waiting_answers_from_many_threads(load: Load, endless_gguf: Path) -> None:
    forge = load(endless_gguf)
    answers = [forge.generate_stream("hi") for _ in range(30)]
    threads = [threading.Thread(target=answer.stop) for answer in answers]
    for thread in threads:
        thread.start()
    results = [end_of(answer, PATIENCE) for answer in answers]
    assert {result.finish_reason for result in results} == {"cancelled"}
    assert forge.generate("hi", {"max_tokens": 10}) == COUNTING_ANSWER


def test_stopping_one_answer_leaves_those_behind_it(load: Load, endless_gguf: Path) -> None:
    forge = load(endless_gguf)
    first, second = (forge.generate_stream("hi", {"max_tokens": count}) for count in (4000, 10))
    assert next(iter(first)) == "one "
    first.stop()
    assert end_of(second, PATIENCE).text == COUNTING_ANSWER


def test_stop_while_idle_does_not_touch_the_next_answer(load: Load, tiny_gguf: Path) -> None:
    forge = load(tiny_gguf)
    answer = forge.generate_stream("hi")
    end_of(answer, PATIENCE)
    answer.stop()
    assert forge._engine is not None
    forge._engine.backend.stop()
    is_fine(forge)


def test_unloading_in_the_middle_of_a_long_prompt_is_quick(load: Load, slow_gguf: Path) -> None:
    forge = load(slow_gguf, n_ctx=4096, n_batch=4096)
    answer = forge.generate_stream(LONG_PROMPT)
    until(lambda: answer.running)
    assert answer.wait(0.3) is None
    unloading = threading.Thread(target=forge.unload_model)
    unloading.start()
    unloading.join(AT_ONCE)
    assert not unloading.is_alive() and end_of(answer).finish_reason == "cancelled"
