"""Stop is real, whatever the model does; and whoever waits in line behind it gets a turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from scripted import ScriptedBackend, until
from worker_kit import LONG, SOON, ask, begun, is_well, isolated, result_of, seconds, worker_of, workers

from llamaforge import Busy, Chunk, Generation, LlamaForge, worker_backend
from llamaforge.engine import Engine

IDLE = 2.0  # seconds from Stop until an engine that heeds it is idle
MANY = 20


@pytest.fixture
def far(tmp_path: Path, endless_gguf: Path, slow_gguf: Path) -> Iterator[LlamaForge]:
    with isolated(tmp_path, endless=endless_gguf, slow=slow_gguf) as forge:
        forge.load_model("fault")
        yield forge


def stop(generation: Generation) -> tuple[str, bool]:
    """Stop an answer and return its finish reason, and whether it was written on after that."""
    generation.stop()
    length = generation.length
    result = result_of(generation, SOON)
    return result.finish_reason, generation.length > length + 1


@pytest.mark.parametrize("mode", ["ok", "slow", "silent", "flood"])
def test_an_engine_that_heeds_stop_is_idle_soon_and_stays(far: LlamaForge, mode: str) -> None:
    worker = worker_of(far)
    answer = ask(far, mode)
    until(lambda: answer.length or (mode == "silent" and answer.running))
    answer.stop()
    assert result_of(answer, IDLE).finish_reason == "cancelled"
    assert is_well(far) and worker_of(far) == worker


@pytest.mark.parametrize("mode", ["ignore_stop", "hang"])
def test_an_engine_that_ignores_stop_is_killed_and_comes_back(
    far: LlamaForge, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, child, worker = [], worker_backend.Child, worker_of(far)
    monkeypatch.setattr(worker_backend, "Child", lambda place, secrets: started.append(place) or child(place))
    answer = begun(ask(far, mode))
    answer.stop()
    assert result_of(answer, SOON).finish_reason == "cancelled" and answer.text.startswith("0 1 2 ")
    until(lambda: started)  # without any message
    assert is_well(far) and worker_of(far) != worker and len(started) == 1


def test_stop_ends_a_frozen_worker_without_the_ten_seconds(far: LlamaForge) -> None:
    answer = ask(far, "freeze")
    until(lambda: worker_of(far).status() == psutil.STATUS_STOPPED)
    answer.stop()
    assert result_of(answer, SOON).finish_reason == "cancelled" and answer.text == "0 1 2 "
    assert is_well(far)


def test_engines_that_had_to_be_killed_are_no_crashes(far: LlamaForge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamaforge.worker_backend.STOP_PATIENCE", 0.1)
    for _ in range(4):
        answer = begun(ask(far, "hang"))
        answer.stop()
        assert result_of(answer, SOON).error is None
    assert is_well(far)


@pytest.mark.parametrize("mode", ["ok", "silent", "hang", "ignore_stop"])
def test_stop_at_once_leaves_no_word(far: LlamaForge, mode: str) -> None:
    for _ in range(3):
        answer = ask(far, mode)
        answer.stop()
        assert result_of(answer, SOON).finish_reason == "cancelled" and answer.text == ""
    assert is_well(far)


def test_a_stop_before_the_engine_is_asked_asks_nothing_of_it(far: LlamaForge) -> None:
    backend, worker = far._engine.backend, worker_of(far)  # type: ignore[union-attr]
    for _ in range(3):
        stream = iter(backend.generate_stream("hi", {"mode": "hang"}))
        backend.stop()
        assert next(stream) == Chunk()  # told for the answer before, or for this one: who stops this tells again
        backend.stop()
        assert list(stream) == [Chunk(finish_reason="cancelled")]
    assert is_well(far) and worker_of(far) == worker


def test_stop_then_send_fifty_times_gives_no_word_of_the_old_answer(far: LlamaForge) -> None:
    far.load_model("endless")
    expected = far.generate("count", {"max_tokens": 12})
    worker = worker_of(far)
    for turn in range(50):
        begun(far.generate_stream("count"), turn % 5).stop()
        assert far.generate("count", {"max_tokens": 12}) == expected
    assert worker_of(far) == worker


def test_stop_is_heard_inside_a_long_prompt(far: LlamaForge) -> None:
    far.load_model("slow", {"n_batch": 2048})
    worker = worker_of(far)
    answer = far.generate_stream("word " * 3000)
    until(lambda: worker.cpu_times().user > 1 or answer.progress)
    answer.stop()
    assert result_of(answer, IDLE).finish_reason == "cancelled" and answer.text == ""
    assert far.generate("hi", {"max_tokens": 2}) and worker_of(far) == worker


def test_stop_twice_or_after_the_end_does_nothing(far: LlamaForge) -> None:
    answer = begun(ask(far, "slow"))
    answer.stop()
    answer.stop()
    result = result_of(answer, IDLE)
    answer.stop()
    assert answer.result is result and is_well(far)
    answer.stop()
    assert is_well(far)


def test_stop_while_the_model_comes_back_ends_the_answer_and_not_the_model(far: LlamaForge) -> None:
    far.load_model("fault", {"mode": "load_slow", "load_seconds": 1.5})
    worker = worker_of(far)
    worker.kill()
    worker.wait()
    answer = ask(far)
    until(lambda: workers())
    answer.stop()
    assert result_of(answer, IDLE).finish_reason == "cancelled"
    assert is_well(far) and far.status.error is None


@pytest.mark.parametrize("mode", ["slow", "hang", "ignore_stop"])
def test_unload_ends_the_answer_that_runs_and_keeps_its_text(far: LlamaForge, mode: str) -> None:
    far.load_model("fault", {"mode": "load_slow", "load_seconds": 1.0})
    running, waiting = begun(ask(far, mode)), ask(far)
    assert seconds(far.unload_model) < SOON
    assert [result_of(answer).finish_reason for answer in (running, waiting)] == ["cancelled", "cancelled"]
    assert running.text.startswith("0 ") and not workers()


def test_a_hung_model_is_unloaded_without_being_loaded_again(far: LlamaForge) -> None:
    far.load_model("fault", {"mode": "load_slow", "load_seconds": 3.0})
    answer = begun(ask(far, "hang"))
    answer.stop()
    assert seconds(far.unload_model) < 3.0
    assert not workers()


def test_a_model_that_is_being_mended_is_told_to_stop_until_it_hears() -> None:
    mending, told, heard = threading.Event(), threading.Event(), threading.Event()

    class Mending(ScriptedBackend):
        def stop(self) -> None:
            told.set()

        def recover(self) -> None:
            mending.set()
            assert told.wait(SOON)
            told.clear()  # as one does that begins just after it was told
            if told.wait(SOON):
                heard.set()

    engine = Engine(Mending())
    engine.submit(lambda lane: ())
    assert mending.wait(SOON)
    engine.close()
    assert heard.is_set()


def test_a_flood_fills_no_memory_but_its_own_text(far: LlamaForge) -> None:
    parent, worker = psutil.Process(), worker_of(far)
    before = [process.memory_info().rss for process in (parent, worker)]
    answer = ask(far, "flood")
    until(lambda: len(answer.text) > 100_000)
    answer.stop()
    result_of(answer, IDLE)
    after = [process.memory_info().rss for process in (parent, worker)]
    assert max(new - old for old, new in zip(before, after, strict=True)) < 50 * 2**20


def test_twenty_wait_in_their_order_and_who_left_is_skipped(far: LlamaForge) -> None:
    running = begun(ask(far, "slow"))
    waiting = [ask(far, max_tokens=number + 1) for number in range(MANY)]
    assert [far.position(answer) for answer in (running, *waiting)] == list(range(MANY + 1))
    left, stayed = waiting[::2], waiting[1::2]
    assert {stop(answer) for answer in left} == {("cancelled", False)}
    assert [far.position(answer) for answer in stayed] == list(range(1, MANY // 2 + 1))
    running.stop()
    # The last one is looked at first, so that none behind it can end meanwhile.
    while not all(done := [answer.result is not None for answer in reversed(stayed)]):
        assert done == sorted(done)
    assert [len(answer.text.split()) for answer in stayed] == list(range(2, MANY + 2, 2))
    assert not any(answer.running or answer.text for answer in left)


def test_fifty_at_once_are_answered_or_told_at_once_that_the_line_is_full(tmp_path: Path) -> None:
    answers: list[Generation] = []
    refused: list[Busy] = []

    def send() -> None:
        try:
            answers.append(ask(far, max_tokens=3))
        except Busy as busy:
            refused.append(busy)

    with isolated(tmp_path, longest_line=10) as far:
        far.load_model("fault")
        running = begun(ask(far, "slow"))
        threads = [threading.Thread(target=send) for _ in range(50)]
        assert seconds(lambda: [thread.start() for thread in threads] + [thread.join() for thread in threads]) < SOON
        assert (len(answers), len(refused)) == (10, 40) and "Try again" in str(refused[0])
        running.stop()
        assert {result_of(answer, LONG).text for answer in answers} == {"0 1 2 "}
