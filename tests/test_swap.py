"""One model takes another's place: checked first, given up at once, never two at a time, all memory given back."""

from __future__ import annotations

import contextlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from scripted import until
from worker_kit import SOON, ask, begun, is_well, isolated, result_of, seconds, worker_of, workers

from llamaforge import (
    LlamaForge,
    LlamaForgeError,
    LoadProgress,
    LoadSuperseded,
    ModelError,
    ParameterError,
    worker_backend,
)

MB = 2**20


@pytest.fixture
def far(tmp_path: Path, tiny_gguf: Path, slow_gguf: Path) -> Iterator[LlamaForge]:
    with isolated(tmp_path, tiny=tiny_gguf, slow=slow_gguf) as forge:
        yield forge


class Command:
    """A load or unload in a thread of its own, as a page gives it; it has been counted when this is made."""

    def __init__(self, forge: LlamaForge, act: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        number = forge._command
        self._thread = threading.Thread(target=self._run, args=[act])
        self._thread.start()
        until(lambda: forge._command > number)

    def _run(self, act: Callable[[], None]) -> None:
        try:
            act()
        except LlamaForgeError as error:
            self.error = error

    def done(self, patience: float) -> BaseException | None:
        self._thread.join(patience)
        assert not self._thread.is_alive()
        return self.error


def loading(forge: LlamaForge, mode: str) -> Command:
    command = Command(forge, lambda: forge.load_model("fault", {"mode": mode, "load_seconds": 30.0}))
    until(lambda: forge.status.state == "loading")
    return command


@contextlib.contextmanager
def counted_workers() -> Iterator[list[int]]:
    """Count the processes that hold or load a model, again and again."""
    counts: list[int] = []
    over = threading.Event()

    def count() -> None:
        while not over.wait(0.02):
            counts.append(len(workers()))

    watcher = threading.Thread(target=count)
    watcher.start()
    try:
        yield counts
    finally:
        over.set()
        watcher.join()


@pytest.mark.parametrize("mode", ["load_hang", "load_slow"])
def test_unload_gives_up_a_load(far: LlamaForge, mode: str) -> None:
    load = loading(far, mode)
    assert seconds(far.unload_model) < SOON
    assert isinstance(load.done(SOON), LoadSuperseded)
    assert (far.status.state, far.status.error, workers()) == ("empty", None, [])


def test_a_running_load_tells_how_far_it_is(far: LlamaForge) -> None:
    assert far.load_progress is None
    load = loading(far, "load_slow")
    until(lambda: far.load_progress == LoadProgress(0.42, "loading"))
    far.unload_model()
    load.done(SOON)
    assert far.load_progress is None


def test_unload_gives_up_the_load_of_a_frozen_worker(far: LlamaForge) -> None:
    load = loading(far, "load_hang")
    until(workers)
    workers()[0].suspend()
    assert seconds(far.unload_model) < SOON
    assert isinstance(load.done(SOON), LoadSuperseded) and not workers()


def test_a_newer_load_gives_up_an_older_one(far: LlamaForge) -> None:
    load = loading(far, "load_hang")
    assert seconds(lambda: far.load_model("tiny")) < SOON
    assert isinstance(load.done(SOON), LoadSuperseded)
    assert (far.status.model, far.status.state) == ("tiny", "ready") and far.generate("hi").startswith("Hello!")


def test_a_load_is_given_up_that_has_no_process_yet(far: LlamaForge, monkeypatch: pytest.MonkeyPatch) -> None:
    about_to_start, may_start, child = threading.Event(), threading.Event(), worker_backend.Child

    def late(place: str, secrets: Sequence[str]) -> worker_backend.Child:
        about_to_start.set()
        may_start.wait()
        return child(place)

    monkeypatch.setattr(worker_backend, "Child", late)
    load = loading(far, "load_hang")
    about_to_start.wait()
    backend = far._loading
    unload = Command(far, far.unload_model)
    until(lambda: backend._stopped_at)  # type: ignore[union-attr]
    may_start.set()
    assert isinstance(load.done(SOON), LoadSuperseded) and unload.done(SOON) is None


def test_a_load_can_be_given_up_at_any_moment(far: LlamaForge) -> None:
    delays = random.Random(7)
    for _ in range(12):
        load = loading(far, "load_slow")
        time.sleep(delays.uniform(0, 0.3))
        assert seconds(far.unload_model) < SOON
        assert isinstance(load.done(SOON), LoadSuperseded)
    assert far.status.state == "empty" and not workers()


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("load_raise", "The model could not be loaded: ValueError: the weights are upside down"),
        ("load_exit", "The model could not be loaded: SystemExit: 3"),
        ("load_segv", "The model could not be loaded: it crashed. Lower n_ctx or n_gpu_layers"),
    ],
)
def test_a_failed_load_leaves_nothing_loaded_and_says_why(far: LlamaForge, mode: str, sentence: str) -> None:
    far.load_model("tiny")
    with pytest.raises(ModelError, match=sentence) as caught:
        far.load_model("fault", {"mode": mode})
    assert (far.status.state, far.status.model, far.status.error) == ("empty", None, caught.value)
    assert not workers() and caught.value.details
    far.load_model("fault")
    assert is_well(far)


@pytest.mark.parametrize(
    ("path", "parameters", "error"),
    [
        ("missing.gguf", {}, ModelError),
        (".", {}, ModelError),
        ("tiny.gguf", {"n_ctx": 10**6}, None),
        ("tiny.gguf", {"n_ctx": 10**9}, ParameterError),
        ("tiny.gguf", {"temprature": 1}, ParameterError),
    ],
    ids=["missing", "folder", "a-large-window", "an-impossible-window", "a-typo"],
)
def test_what_can_be_checked_is_checked_before_the_running_model_goes(
    far: LlamaForge, tiny_gguf: Path, path: str, parameters: dict[str, int], error: type[Exception] | None
) -> None:
    far.load_model("fault")
    far.add_model("other", str(tiny_gguf.parent / path), "llama.cpp")
    worker = worker_of(far)
    if error is None:
        assert far.check_model("other", parameters) is None or "needs about" in str(far.check_model("other"))
    else:
        with pytest.raises(error):
            far.load_model("other", parameters)
    assert is_well(far) and worker_of(far) == worker


@pytest.mark.parametrize("seed", range(4))
def test_the_last_of_many_commands_wins_and_never_two_models_are_held(far: LlamaForge, seed: int) -> None:
    choice = random.Random(seed)
    acts = {name: lambda name=name: far.load_model(name) for name in ("fault", "tiny")} | {None: far.unload_model}
    with counted_workers() as counts:
        for _ in range(5):
            names = [choice.choice([*acts]) for _ in range(4)]
            commands = []
            for name in names:
                commands.append(Command(far, acts[name]))
                time.sleep(choice.choice((0, 0, 0.05, 0.3)))
            errors = [command.done(30) for command in commands]
            assert far.status.model == names[-1] and errors[-1] is None
            assert {type(error) for error in errors} <= {type(None), LoadSuperseded}
            assert far.status.state == ("ready" if names[-1] else "empty")
    assert max(counts) <= 1


def test_unload_while_a_line_waits_ends_them_all(far: LlamaForge) -> None:
    far.load_model("fault")
    answers = [begun(ask(far, "slow")), *(ask(far) for _ in range(5))]
    far.unload_model()
    assert {result_of(answer).finish_reason for answer in answers} == {"cancelled"}


def test_unloading_gives_all_of_the_memory_back_and_says_how_much(far: LlamaForge) -> None:
    before = psutil.Process().memory_info().rss
    far.load_model("slow", {"n_ctx": 8192})
    worker = worker_of(far)
    assert far.generate("hi", {"max_tokens": 2})
    held = worker.memory_info().rss
    far.unload_model()
    assert not worker.is_running() and not workers()
    assert psutil.Process().memory_info().rss - before < 50 * MB
    given = re.fullmatch(r"(\d+) MB given back", far.status.summary[0])
    assert given is not None and abs(int(given[1]) * 1_000_000 - held) < held / 10
