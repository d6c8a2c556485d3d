"""The answer being written: few updates however fast the engine is, and a page that is free soon after Stop."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scripted import PATIENCE, ScriptedBackend, until

from llamaforge import Chunk, Generation, LlamaForge, Message, register_backend
from llamaforge_ui.live_turn import INTERVAL, STOP_PATIENCE, Frame, frames


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[tuple[LlamaForge, ScriptedBackend]]:
    """A LlamaForge on a backend that says what the test tells it to."""
    made: list[ScriptedBackend] = []

    class Told(ScriptedBackend):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    register_backend("told", Told)
    forge = LlamaForge(tmp_path)
    forge.add_model("told", "told", "told")
    forge.load_model("told")
    yield forge, made[-1]
    forge.unload_model()


def ask(forge: LlamaForge, text: str, **parameters: Any) -> Generation:
    return forge.chat_stream([Message("user", text)], parameters)


def drawn(
    forge: LlamaForge, generation: Generation, at_each: Callable[[Frame], object] = lambda frame: None
) -> list[tuple[float, Frame]]:
    """Return every frame with the time at which it was drawn; `at_each` may act meanwhile."""

    async def collect() -> list[tuple[float, Frame]]:
        seen = []
        async for frame in frames(forge, generation):
            seen.append((time.monotonic(), frame))
            at_each(frame)
        return seen

    return asyncio.run(asyncio.wait_for(collect(), PATIENCE))


def test_frames_grow_until_the_answer_has_ended(echo: LlamaForge) -> None:
    generation = ask(echo, "one two three four five six seven eight", tokens_per_second=20)
    texts = [frame.text for _, frame in drawn(echo, generation) if frame.text]
    assert len(texts) >= 3
    assert all(after.startswith(before) and after != before for before, after in pairwise(texts))
    assert generation.result is not None and generation.result.finish_reason == "stop"


def test_an_answer_that_has_ended_has_no_frames(echo: LlamaForge) -> None:
    generation = ask(echo, "Hello")
    assert generation.wait(PATIENCE)
    assert drawn(echo, generation) == []


def test_a_fast_engine_is_drawn_at_most_fifteen_times_a_second(echo: LlamaForge) -> None:
    generation = ask(echo, "word " * 600, tokens_per_second=600)
    times = [at for at, frame in drawn(echo, generation) if frame.text]
    gaps = [after - before for before, after in pairwise(times)]
    assert 5 <= len(times) <= 16 * (times[-1] - times[0] + INTERVAL)
    assert min(gaps) > 0.9 * INTERVAL


def test_a_slow_page_is_drawn_less_often_but_never_stands_still(echo: LlamaForge) -> None:
    generation = ask(echo, "word " * 60, tokens_per_second=50)
    times = [at for at, frame in drawn(echo, generation, lambda frame: busy(0.05)) if frame.text]
    gaps = sorted(after - before for before, after in pairwise(times))
    assert gaps[len(gaps) // 2] > 2 * INTERVAL
    assert gaps[-1] < 1


def busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_the_first_word_is_drawn_at_once(scripted: tuple[LlamaForge, ScriptedBackend]) -> None:
    forge, backend = scripted
    generation = ask(forge, "Hello")
    said: list[float] = []

    def say_once(frame: Frame) -> None:
        if not said and generation.running:
            said.append(time.monotonic())
            backend.say("First", None)

    # The end comes with the word, so the word itself is what must be seen or the end reached, without a pause.
    drawn(forge, generation, say_once)
    assert generation.text == "First"
    assert time.monotonic() - said[0] < 0.5


def test_the_status_says_how_much_of_the_prompt_is_read(scripted: tuple[LlamaForge, ScriptedBackend]) -> None:
    forge, backend = scripted
    generation = ask(forge, "Hello")
    until(lambda: generation.running)
    backend.say(Chunk(progress=0.4))
    until(lambda: generation.progress)
    seen: list[str] = []

    def answer(frame: Frame) -> None:
        seen.append(frame.status)
        backend.say("Hi", None)

    drawn(forge, generation, answer)
    assert seen[0] == "Reading the prompt · 40%"


def test_thoughts_are_drawn_as_thinking(scripted: tuple[LlamaForge, ScriptedBackend]) -> None:
    forge, backend = scripted
    generation = ask(forge, "Hello")
    backend.say("<think>Let me see.")
    until(lambda: generation.reasoning)
    seen: list[Frame] = []

    def end(frame: Frame) -> None:
        seen.append(frame)
        backend.say("</think>42", None)

    drawn(forge, generation, end)
    assert seen[0] == Frame("", "Let me see.", "Thinking")


def test_an_answer_in_line_says_how_many_come_first(echo: LlamaForge) -> None:
    ahead = [ask(echo, "word " * 400, tokens_per_second=50) for _ in range(2)]
    until(lambda: ahead[0].running)
    generation = ask(echo, "Hello")
    seen: list[str] = []

    def stop_those_ahead(frame: Frame) -> None:
        seen.append(frame.status)
        for other in ahead:
            other.stop()

    drawn(echo, generation, stop_those_ahead)
    assert seen[0] == "Waiting for 2 answers before this one"
    assert generation.text == "Hello"


def test_a_stopped_answer_ends_its_frames_at_once(echo: LlamaForge) -> None:
    generation = ask(echo, "word " * 400, tokens_per_second=20)
    until(lambda: generation.text)
    stopped: list[float] = []

    def stop(frame: Frame) -> None:
        if not stopped:
            stopped.append(time.monotonic())
            generation.stop()

    drawn(echo, generation, stop)
    assert time.monotonic() - stopped[0] < 0.5


def test_an_engine_that_does_not_hear_stop_leaves_the_page_free_after_a_second(
    scripted: tuple[LlamaForge, ScriptedBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    forge, backend = scripted
    monkeypatch.setattr(backend, "stop", lambda: None)
    generation = ask(forge, "Hello")
    until(lambda: generation.running)
    generation.stop()
    begun = time.monotonic()
    statuses = [frame.status for _, frame in drawn(forge, generation)]
    assert STOP_PATIENCE <= time.monotonic() - begun < STOP_PATIENCE + 0.5
    assert statuses == ["Stopping …"]
    backend.say(None)


def test_waiting_is_counted_in_seconds(scripted: tuple[LlamaForge, ScriptedBackend]) -> None:
    forge, backend = scripted
    generation = ask(forge, "Hello")

    def answer_after_a_second(frame: Frame) -> None:
        if "1 s" in frame.status:
            backend.say("Hi", None)

    statuses = [frame.status for _, frame in drawn(forge, generation, answer_after_a_second)]
    assert any(re.fullmatch(r"Reading the prompt · 1 s", status) for status in statuses)
