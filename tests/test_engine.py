"""The line of answers before one backend: first come, first served, and one thread that touches the backend."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import pytest
from scripted import PATIENCE, ScriptedBackend, until

from llamaforge import BaseBackend, Busy, Generation, NoModelLoaded
from llamaforge.engine import Engine
from llamaforge.text_stream import as_chunks


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
def engine(backend: ScriptedBackend) -> Iterator[Engine]:
    engine = Engine(backend)
    yield engine
    engine.close()


def ask(engine: Engine, prompt: str) -> Generation:
    return engine.submit(lambda lane: as_chunks(lane.generate_stream(prompt)))


def finish_of(generation: Generation) -> str:
    result = generation.wait(PATIENCE)
    assert result is not None
    return result.finish_reason


def ask_and_begin(engine: Engine, backend: ScriptedBackend, prompt: str) -> Generation:
    """Ask, and wait until the first word is there."""
    generation = ask(engine, prompt)
    backend.say("word ")
    until(lambda: generation.text)
    return generation


def test_answers_come_in_the_order_of_asking(engine: Engine, backend: ScriptedBackend) -> None:
    answers = [ask(engine, prompt) for prompt in "abc"]
    backend.say("1", None, "2", None, "3", None)
    assert ["".join(answer) for answer in answers] == ["1", "2", "3"]
    assert backend.asked == ["a", "b", "c"]


def test_what_is_last_lets_all_others_go_before(engine: Engine, backend: ScriptedBackend) -> None:
    first = ask_and_begin(engine, backend, "a")
    guests = [
        engine.submit(lambda lane, prompt=prompt: as_chunks(lane.generate_stream(prompt)), last=True)
        for prompt in "bc"
    ]
    owners = [ask(engine, prompt) for prompt in "de"]
    assert [engine.position(answer) for answer in (*owners, *guests)] == [1, 2, 3, 4]
    backend.say(None, None, None, None, None)
    assert [finish_of(answer) for answer in (first, *owners, *guests)] == ["stop"] * 5
    assert backend.asked == ["a", "d", "e", "b", "c"]


def test_the_position_is_how_many_answers_come_before(engine: Engine, backend: ScriptedBackend) -> None:
    first = ask_and_begin(engine, backend, "a")
    others = [ask(engine, prompt) for prompt in "bc"]
    assert [engine.position(answer) for answer in (first, *others)] == [0, 1, 2]
    backend.say(None, "more")
    until(lambda: others[0].text)
    assert [engine.position(answer) for answer in (first, *others)] == [0, 0, 1]
    assert (others[0].running, others[1].running) == (True, False)


def test_a_waiting_answer_that_is_stopped_ends_at_once_and_is_never_asked(
    engine: Engine, backend: ScriptedBackend
) -> None:
    first = ask_and_begin(engine, backend, "a")
    second, third = ask(engine, "b"), ask(engine, "c")
    second.stop()
    assert finish_of(second) == "cancelled" and engine.position(third) == 1
    backend.say(None, "3", None)
    assert "".join(third) == "3"
    assert (backend.asked, first.text) == (["a", "c"], "word ")


def test_stopping_the_running_answer_leaves_the_next_one_whole(engine: Engine, backend: ScriptedBackend) -> None:
    first = ask_and_begin(engine, backend, "a")
    second = ask(engine, "b")
    first.stop()
    first.stop()
    assert finish_of(first) == "cancelled"
    backend.say("2", None)
    assert "".join(second) == "2"


def test_stopping_an_answer_that_has_ended_does_not_touch_the_running_one(
    engine: Engine, backend: ScriptedBackend
) -> None:
    first = ask_and_begin(engine, backend, "a")
    backend.say(None)
    assert finish_of(first) == "stop"
    second = ask_and_begin(engine, backend, "b")
    first.stop()
    backend.say("on", None)
    assert "".join(second) == "word on"


def test_an_answer_that_fails_lets_the_next_one_go_on(engine: Engine, backend: ScriptedBackend) -> None:
    answers = [ask(engine, prompt) for prompt in "abc"]
    backend.say(ValueError("bad"), SystemExit(1), "3", None)
    assert [finish_of(answer) for answer in answers] == ["error", "error", "stop"]


def test_closing_stops_every_answer_and_unloads(engine: Engine, backend: ScriptedBackend) -> None:
    running = ask_and_begin(engine, backend, "a")
    waiting = ask(engine, "b")
    engine.close()
    assert [finish_of(answer) for answer in (running, waiting)] == ["cancelled", "cancelled"]
    assert running.text == "word " and backend.asked == ["a"]
    assert backend.unloaded.is_set() and not any(thread.is_alive() for thread in engine._threads)


def test_a_closed_engine_takes_no_more_and_closes_twice(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(NoModelLoaded, match="was unloaded"):
        ask(engine, "a")


def test_a_line_that_is_full_takes_no_more(backend: ScriptedBackend) -> None:
    engine = Engine(backend, longest_line=2)
    ask_and_begin(engine, backend, "a")
    waiting = [ask(engine, prompt) for prompt in "bc"]
    with pytest.raises(Busy, match="2 messages wait for an answer already. Try again in a minute."):
        ask(engine, "d")
    waiting[0].stop()
    assert engine.position(ask(engine, "d")) == 2
    engine.close()


def test_one_thread_touches_the_backend(engine: Engine, backend: ScriptedBackend) -> None:
    backend.say(*["1", None] * 5)
    for prompt in "abcde":
        assert "".join(ask(engine, prompt)) == "1"
    assert backend.threads == {thread.ident for thread in engine._threads}


def test_a_backend_that_fails_to_unload_is_let_go_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    class Clinging(ScriptedBackend):
        def unload_model(self) -> None:
            raise RuntimeError("not yet")

    with caplog.at_level(logging.WARNING, "llamaforge"):
        Engine(Clinging()).close()
    assert "not yet" in caplog.text


class Lane(ScriptedBackend):
    """A service: two answers at once, each in a lane of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.second = ScriptedBackend()

    def lanes(self) -> Sequence[BaseBackend]:
        return (self, self.second)


def test_a_service_with_two_lanes_answers_two_at_once_and_the_third_waits() -> None:
    service = Lane()
    engine = Engine(service)
    answers = [ask(engine, prompt) for prompt in "abc"]
    service.say("one ")
    service.second.say("two ")
    until(lambda: sum(bool(answer.text) for answer in answers) == 2)
    assert [engine.position(answer) for answer in answers] == [0, 0, 2]
    running = {answer.text: answer for answer in answers}
    running["one "].stop()
    assert finish_of(running["one "]) == "cancelled"
    service.say("three", None)
    assert finish_of(answers[2]) == "stop" and answers[2].text == "three"
    assert running["two "].result is None, "Stop reaches its own lane only"
    service.second.say(None)
    engine.close()
    assert service.unloaded.is_set()
