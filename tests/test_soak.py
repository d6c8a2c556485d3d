"""Hundreds of chats and dozens of loads leave nothing behind: no memory, no thread, no open file, no process."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from worker_kit import isolated, worker_of, workers

from llamaforge import LlamaForge

CHATS = 500
CYCLES = 30
MB = 2**20


class Held(NamedTuple):
    """What a process holds."""

    memory: int
    files: int
    threads: int


@pytest.fixture
def far(tmp_path: Path, tiny_gguf: Path) -> Iterator[LlamaForge]:
    with isolated(tmp_path, tiny=tiny_gguf) as forge:
        yield forge


def held(process: psutil.Process) -> Held:
    gc.collect()
    return Held(process.memory_info().rss, process.num_fds(), process.num_threads())


def repeat(times: int, act: Callable[[], object]) -> None:
    for _ in range(times):
        act()


def grown(before: Held, after: Held) -> tuple[bool, int, int]:
    """Return whether much memory was taken, and how many more files and threads."""
    return after.memory - before.memory > 30 * MB, after.files - before.files, after.threads - before.threads


def test_five_hundred_chats_leave_nothing_behind(far: LlamaForge) -> None:
    def chat() -> None:
        assert far.chat([{"role": "user", "content": "hi"}], {"max_tokens": 4}).startswith("Hello!")

    far.load_model("tiny")
    processes = [psutil.Process(), worker_of(far)]
    repeat(CHATS // 10, chat)
    before = [held(process) for process in processes]
    repeat(CHATS, chat)
    after = [held(process) for process in processes]
    assert [grown(*pair) for pair in zip(before, after, strict=True)] == [(False, 0, 0)] * 2
    assert worker_of(far) == processes[1]


def test_chats_that_are_stopped_leave_nothing_behind(far: LlamaForge) -> None:
    def chat() -> None:
        answer = far.generate_stream("hi")
        answer.stop()
        assert answer.wait(10) is not None

    far.load_model("tiny")
    processes = [psutil.Process(), worker_of(far)]
    repeat(20, chat)
    before = [held(process) for process in processes]
    repeat(200, chat)
    after = [held(process) for process in processes]
    assert [grown(*pair) for pair in zip(before, after, strict=True)] == [(False, 0, 0)] * 2


def test_thirty_loads_and_unloads_leave_nothing_behind(far: LlamaForge) -> None:
    def cycle() -> None:
        far.load_model("tiny")
        assert far.generate("hi", {"max_tokens": 2})
        far.unload_model()

    repeat(3, cycle)
    before, threads = held(psutil.Process()), threading.active_count()
    repeat(CYCLES, cycle)
    assert grown(before, held(psutil.Process())) == (False, 0, 0)
    assert threading.active_count() == threads and not workers()
