"""One running answer: a thread writes it, others read and stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from scripted import PATIENCE, ScriptedBackend

from llamaforge import Chunk, Generation, GenerationError, ModelError, Result, Usage
from llamaforge import generation as generation_module
from llamaforge.text_stream import as_chunks

Write = Callable[..., Generation]


def new() -> Generation:
    return Generation(on_stop=lambda generation: None)


def written(*pieces: str | Chunk) -> Generation:
    generation = new()
    generation.run(lambda: as_chunks(pieces))
    return generation


def result_of(generation: Generation) -> Result:
    result = generation.wait(PATIENCE)
    assert result is not None
    return result


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
def live(backend: ScriptedBackend) -> Iterator[Generation]:
    """An answer that the backend is writing in another thread."""
    generation = Generation(on_stop=lambda _: backend.stop())
    thread = threading.Thread(target=generation.run, args=(lambda: as_chunks(backend.generate_stream("")),))
    thread.start()
    yield generation
    backend.say(None)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_iterating_gives_the_pieces_in_order() -> None:
    generation = written("a", "", Chunk(progress=1.0), "b", "c")
    assert list(generation) == ["a", "b", "c"]
    assert generation.text == "abc"


def test_an_answer_can_be_read_twice_and_after_its_end() -> None:
    generation = written("a", "b")
    assert list(generation) == list(generation) == ["a", "b"]
    assert result_of(generation).finish_reason == "stop"


def test_pieces_are_read_while_the_answer_is_being_written(live: Generation, backend: ScriptedBackend) -> None:
    pieces = iter(live)
    for word in ("a", "b"):
        backend.say(word)
        assert next(pieces) == word
    assert live.result is None and live.running
    backend.say(None)
    assert list(pieces) == []


def test_two_readers_both_get_everything(live: Generation, backend: ScriptedBackend) -> None:
    with ThreadPoolExecutor() as pool:
        readers = [pool.submit("".join, live) for _ in range(2)]
        backend.say("a", "b", "c", None)
        assert [reader.result(PATIENCE) for reader in readers] == ["abc", "abc"]


def test_stop_from_another_thread_ends_it_and_keeps_the_text(live: Generation, backend: ScriptedBackend) -> None:
    backend.say("a")
    pieces = iter(live)
    next(pieces)
    threading.Thread(target=live.stop).start()
    assert list(pieces) == []
    result = result_of(live)
    assert (result.text, result.finish_reason, result.error) == ("a", "cancelled", None)


def test_leaving_the_loop_stops_the_engine(live: Generation, backend: ScriptedBackend) -> None:
    backend.say("a", "b")
    for _ in live:
        break
    assert live.stopping
    assert result_of(live).finish_reason == "cancelled"


def test_leaving_a_with_block_stops_the_engine(live: Generation, backend: ScriptedBackend) -> None:
    backend.say("a")
    with live as generation:
        next(iter(generation))
    assert result_of(live).finish_reason == "cancelled"


def test_stop_after_the_end_changes_nothing() -> None:
    generation = written("a")
    before = generation.result
    generation.stop()
    assert generation.result is before and not generation.stopping


def test_stop_asks_the_engine_once() -> None:
    asked: list[Generation] = []
    generation = Generation(on_stop=asked.append)
    generation.stop()
    generation.stop()
    assert asked == [generation]


def test_an_answer_stopped_before_its_turn_never_asks_the_backend(backend: ScriptedBackend) -> None:
    generation = new()
    generation.stop()
    generation.run(lambda: as_chunks(backend.generate_stream("")))
    assert backend.asked == []
    assert result_of(generation).finish_reason == "cancelled"


def test_a_backend_that_was_told_before_it_began_is_told_again() -> None:
    told = threading.Event()
    generation = Generation(on_stop=lambda _: told.set())
    heard: list[bool] = []

    def stream() -> Iterable[Chunk]:
        generation.stop()
        told.clear()  # a backend forgets an earlier stop when it begins
        yield Chunk()
        heard.append(told.is_set())

    generation.run(stream)
    assert heard == [True]
    assert result_of(generation).finish_reason == "cancelled"


def test_after_stop_the_token_counts_are_taken_and_no_word_more() -> None:
    generation, usage = new(), Usage(4, 2)

    def stream() -> Iterable[Chunk]:
        yield Chunk("a")
        generation.stop()
        yield Chunk("b", finish_reason="cancelled", usage=usage)
        yield Chunk("c")

    generation.run(stream)
    result = result_of(generation)
    assert (result.text, result.usage, result.finish_reason) == ("a", usage, "cancelled")


def test_a_backend_that_ignores_stop_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_module, "STOP_PATIENCE", 0.01)
    generation = new()

    def stream() -> Iterator[Chunk]:
        for number in count():
            yield Chunk(str(number))
            generation.stop()

    generation.run(stream)
    assert generation.text == "0"
    assert result_of(generation).finish_reason == "cancelled"


def test_an_error_is_raised_behind_the_text() -> None:
    generation, error = new(), ModelError("It broke.")
    generation.run(lambda: as_chunks(failing("a", error)))
    pieces = iter(generation)
    assert next(pieces) == "a"
    with pytest.raises(ModelError, match="It broke"):
        next(pieces)
    result = result_of(generation)
    assert (result.text, result.finish_reason, result.error) == ("a", "error", error)


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit("bad"), MemoryError("bad")], ids=repr)
def test_any_failure_of_a_backend_becomes_a_generation_error(error: BaseException) -> None:
    generation = new()
    generation.run(lambda: as_chunks(failing("a", error)))
    with pytest.raises(GenerationError, match=f"{type(error).__name__}: bad") as caught:
        list(generation)
    assert caught.value.__cause__ is error and generation.text == "a"


def failing(text: str, error: BaseException) -> Iterator[str]:
    yield text
    raise error


def slowly(*pieces: str | Chunk) -> Iterator[str | Chunk]:
    for piece in pieces:
        yield piece
        threading.Event().wait(0.06)


def test_the_result_holds_counts_and_times() -> None:
    generation = new()
    generation.run(lambda: as_chunks(slowly("a", "b", Chunk(finish_reason="length", usage=Usage(5, 3, 2)))))
    result = result_of(generation)
    assert (result.finish_reason, result.usage) == ("length", Usage(5, 3, 2))
    assert result.time_to_first_token is not None
    assert 0 <= result.time_to_first_token <= result.seconds
    writing = result.seconds - result.time_to_first_token
    assert result.tokens_per_second == pytest.approx(2 / writing)


@pytest.mark.parametrize(
    "pieces",
    [[], [Chunk(usage=Usage(5, 0))], [Chunk("a", usage=Usage(5, 1))], ["a", Chunk("b", usage=Usage(5, 2))]],
    ids=["nothing", "no token", "one token", "too short to measure"],
)
def test_what_was_not_measured_is_none(pieces: list[Chunk]) -> None:
    result = result_of(written(*pieces))
    assert result.tokens_per_second is None
    assert (result.time_to_first_token is None) == (result.text == "")


def test_thoughts_are_kept_apart_and_count_as_the_first_token() -> None:
    generation = written(Chunk(reasoning="hm"), Chunk(reasoning="m"), "42")
    result = result_of(generation)
    assert (result.reasoning, result.text, generation.reasoning) == ("hmm", "42", "hmm")
    assert result.time_to_first_token is not None
    assert list(generation) == ["42"]


def test_the_length_grows_with_text_and_thoughts_only() -> None:
    generation = written(Chunk(reasoning="hm"), Chunk(progress=0.3), "a")
    assert (generation.length, generation.progress) == (2, 0.3)


def test_a_reader_is_given_only_what_is_new() -> None:
    generation = written(Chunk(reasoning="hm"), "a", "b", Chunk(progress=0.3))
    everything = generation.since()
    assert (everything.text, everything.reasoning) == ("ab", "hm")
    nothing = generation.since(everything.place)
    assert (nothing.text, nothing.reasoning, nothing.place) == ("", "", everything.place)


def test_news_put_together_are_the_whole_answer(live: Generation, backend: ScriptedBackend) -> None:
    news = live.since()
    told = [news.text]
    for word in ("a", "b", "c"):
        backend.say(word)
        assert live.wait_for_news(news.place, PATIENCE)
        news = live.since(news.place)
        told.append(news.text)
    assert told == ["", "a", "b", "c"]


def test_waiting_for_news_ends_with_thoughts_and_with_the_answer(live: Generation, backend: ScriptedBackend) -> None:
    backend.say(Chunk(reasoning="hm"))
    assert live.wait_for_news(timeout=PATIENCE)
    place = live.since().place
    assert not live.wait_for_news(place, timeout=0)
    backend.say(None)
    assert live.wait_for_news(place, timeout=PATIENCE)
    assert result_of(live).reasoning == "hm"


def test_wait_returns_none_while_the_answer_is_not_done(live: Generation, backend: ScriptedBackend) -> None:
    assert live.wait(0) is None
    backend.say("a", None)
    assert result_of(live).text == "a"
