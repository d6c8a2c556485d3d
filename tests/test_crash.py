"""A model that crashes, hangs or runs wild in its process: one answer ends with a sentence, and the next one works."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import until
from worker_kit import LONG, SOON, ask, begun, is_well, isolated, result_of, seconds, worker_of, workers

from llamaforge import GenerationError, LlamaForge, Message, worker_backend

RESTARTED = "The model stopped unexpectedly: {} It is being started again: send your message again."


@pytest.fixture
def far(tmp_path: Path) -> Iterator[LlamaForge]:
    with isolated(tmp_path) as forge:
        forge.load_model("fault")
        yield forge


def crash(forge: LlamaForge) -> Exception | None:
    return result_of(ask(forge, "segv")).error


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("raise_at", "The model stopped with an error: ValueError: the weights melted"),
        ("sys_exit", "The model stopped with an error: SystemExit: 3"),
        ("bytes", "The backend gave bytes where it must give str or Chunk."),
        ("none", "The backend gave NoneType where it must give str or Chunk."),
        ("dict", "The backend gave dict where it must give str or Chunk."),
        ("number_in_chunk", "The backend gave a Chunk with int where it must give str."),
        ("segv", RESTARTED.format("it crashed.")),
        ("exit", RESTARTED.format("it crashed.")),
    ],
)
def test_a_fault_keeps_the_text_and_says_what_happened(far: LlamaForge, mode: str, sentence: str) -> None:
    result = result_of(ask(far, mode))
    assert (result.text, result.finish_reason, str(result.error)) == ("0 1 2 ", "error", sentence)
    assert type(result.error) is GenerationError
    assert is_well(far)


@pytest.mark.parametrize("mode", ["raise_at", "sys_exit", "bytes", "none", "dict"])
def test_a_backend_in_this_process_that_goes_wrong_ends_one_answer(tmp_path: Path, mode: str) -> None:
    with isolated(tmp_path, isolate=False) as near:
        near.load_model("fault")
        result = result_of(ask(near, mode))
        assert result.text == "0 1 2 " and isinstance(result.error, GenerationError)
        assert is_well(near)


@pytest.mark.parametrize("isolate", [False, True], ids=["near", "far"])
def test_half_a_character_ends_no_answer(tmp_path: Path, isolate: bool) -> None:
    with isolated(tmp_path, isolate=isolate) as forge:
        forge.load_model("fault")
        result = result_of(ask(forge, "bad_utf8"))
        assert "half a llama and " in result.text and result.error is None
        assert is_well(forge)


@pytest.mark.parametrize("isolate", [False, True], ids=["near", "far"])
def test_a_piece_of_ten_megabytes_arrives_whole(tmp_path: Path, isolate: bool) -> None:
    with isolated(tmp_path, isolate=isolate) as forge:
        forge.load_model("fault")
        result = result_of(ask(forge, "big_piece"), LONG)
        assert len(result.text) == 10_000_006 and result.finish_reason == "stop"
        assert is_well(forge)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (signal.SIGKILL, "the system ended it, most likely because memory ran out."),
        (signal.SIGSEGV, "it crashed."),
        (signal.SIGTERM, "it crashed."),
    ],
)
def test_a_worker_killed_in_an_answer_comes_back_by_itself(far: LlamaForge, name: signal.Signals, reason: str) -> None:
    answer = begun(ask(far, "slow"), 10)
    worker_of(far).send_signal(name)
    result = result_of(answer, SOON)
    assert result.text.startswith("0 1 2 0 1 ") and str(result.error) == RESTARTED.format(reason)
    assert is_well(far)


def test_a_worker_killed_before_the_first_word_comes_back_by_itself(far: LlamaForge) -> None:
    answer = ask(far, "silent")
    until(lambda: answer.running)
    worker_of(far).kill()
    result = result_of(answer, SOON)
    assert (result.text, result.finish_reason) == ("", "error")
    assert is_well(far)


def test_a_frozen_worker_is_ended_after_ten_seconds(far: LlamaForge) -> None:
    answer = begun(ask(far, "slow"), 10)
    took = seconds(lambda: (worker_of(far).suspend(), result_of(answer, LONG)))
    assert 8 < took < 20
    assert str(result_of(answer).error) == RESTARTED.format("it did not answer for 10 seconds.")
    assert is_well(far)


def test_a_worker_killed_while_nobody_asks_is_not_even_noticed(far: LlamaForge) -> None:
    worker = worker_of(far)
    worker.kill()
    worker.wait()
    assert is_well(far) and far.status.error is None


def test_the_messages_behind_a_crash_are_answered(far: LlamaForge) -> None:
    first, second = ask(far, "segv"), ask(far, max_tokens=2)
    assert result_of(first).finish_reason == "error"
    assert result_of(second).text == "0 1 "


def test_the_third_crash_gives_the_model_up_and_says_so(far: LlamaForge) -> None:
    errors = [str(crash(far)) for _ in range(3)]
    assert ["being started again" in error for error in errors] == [True, True, False]
    assert errors[2].endswith("it crashed. Load it again.")
    until(lambda: far.status.state == "empty")
    assert far.status.error is not None and "Load it" in str(far.status.error)
    assert not workers()


def test_a_model_that_was_given_up_answers_with_a_sentence_until_it_is_loaded(far: LlamaForge) -> None:
    for _ in range(3):
        crash(far)
    with pytest.raises(GenerationError, match="Load"):
        result = result_of(ask(far))
        raise result.error or AssertionError(result)
    assert not workers()
    far.load_model("fault")
    assert is_well(far)


def test_crashes_of_long_ago_do_not_count(far: LlamaForge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_backend, "REVIVAL_WINDOW", 0.0)
    for _ in range(4):
        assert "being started again" in str(crash(far))
    assert is_well(far)


def test_a_model_that_cannot_be_loaded_again_is_given_up(tmp_path: Path, tiny_gguf: Path) -> None:
    file = Path(shutil.copy(tiny_gguf, tmp_path))
    with isolated(tmp_path, tiny=file) as far:
        far.load_model("tiny")
        file.unlink()
        worker_of(far).kill()
        assert result_of(far.generate_stream("hi"), LONG).error is not None
        until(lambda: far.status.state == "empty")
        assert far.status.error is not None and not workers()


@pytest.mark.parametrize("model", ["fault", "tiny"], ids=["in its turn", "beside an answer"])
def test_a_model_that_died_while_nobody_asked_counts_nothing_and_answers(
    tmp_path: Path, tiny_gguf: Path, model: str
) -> None:
    with isolated(tmp_path, tiny=tiny_gguf) as far:
        far.load_model(model)
        worker = worker_of(far)
        worker.kill()
        worker.wait(SOON)
        assert seconds(lambda: far.count_tokens("one two")) < 1  # it waits for nobody who is gone
        assert far.count_tokens("one two") is None and far.prompt([Message("user", "hi")]) is None
        assert far.generate("hi")


def test_llama_cpp_killed_in_an_answer_comes_back_by_itself(tmp_path: Path, endless_gguf: Path) -> None:
    with isolated(tmp_path, endless=endless_gguf) as far:
        far.load_model("endless")
        answer = begun(far.generate_stream("count", {"max_tokens": 5000}), 20)
        worker_of(far).kill()
        assert result_of(answer, SOON).text.startswith("one two three")
        assert far.generate("count", {"max_tokens": 3}).startswith("one two three")
