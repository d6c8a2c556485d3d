"""The process in which a model runs: what it knows, what it says, and when it ends."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from fault_backend import FaultBackend
from scripted import ROOT, until
from worker_kit import (
    SOON,
    ask,
    begun,
    is_well,
    isolated,
    result_of,
    seconds,
    worker_of,
    workers,
)

from llamaforge import GenerationError, LlamaForge, LlamaForgeError, ModelError, register_backend, worker_backend

CANARY = "canary-that-nobody-may-see"
SECRETS = (
    "OPENAI_API_KEY",
    "HF_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "LLAMAFORGE_OWNER_PASSWORD",
    "DATABASE_URL",
    "NVIDIA_API_KEY",
    "CUDA_TOKEN",
    "GGML_SECRET",
)
PARENT = """
import os, signal, sys, threading
from pathlib import Path
from worker_kit import ask, begun, isolated, until, worker_of, workers

state, folder, slow = sys.argv[1:]
with isolated(Path(folder), slow=Path(slow)) as forge:
    if state == "loading":
        load = lambda: forge.load_model("fault", {"mode": "load_hang"})
        threading.Thread(target=load, daemon=True).start()
        until(workers)
    else:
        loader = threading.Thread(target=forge.load_model, args=["slow" if state == "prompt" else "fault"])
        loader.start()
        loader.join()
    if state == "prompt":
        answer = forge.generate_stream("word " * 3000)
        until(lambda: answer.progress)
    elif state in ("slow", "hang"):
        begun(ask(forge, state))
    elif state == "forked" and (copy := os.fork()) == 0:
        signal.pause()
    print(workers()[0].pid, copy if state == "forked" else 0, flush=True)
    signal.pause()
"""
BACKEND = """
import sys, time
from llamaforge import BaseBackend

IN_WORKER = sys.argv[0].endswith("worker.py")

class Custom(BaseBackend):
    def load_model(self, model_path, parameters=None): ...
    def is_model_loaded(self): return True
    def chat_stream(self, messages, parameters=None):
        return self.generate_stream(messages[-1].content)
    def generate_stream(self, prompt, parameters=None):
        for number in range(3 if prompt == "briefly" else 500):
            yield f"{number} "
            time.sleep(0.01)
"""


@pytest.fixture
def far(tmp_path: Path) -> Iterator[LlamaForge]:
    with isolated(tmp_path) as forge:
        yield forge


@pytest.fixture
def custom(far: LlamaForge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Register a backend from a module that this text is added to, and make a model "custom" known."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(more: str) -> None:
        name = f"custom_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(BACKEND + more, "utf-8")
        register_backend("custom", f"{name}:Custom")
        far.add_model("custom", "nowhere", "custom")

    return write


@contextlib.contextmanager
def another_program(state: str, folder: Path, slow: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Run a program that holds a worker in some state; give its process, the worker's pid and that of a fork."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", PARENT, state, str(folder), str(slow)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        try:
            yield parent, pids
        finally:
            parent.kill()
            for pid in filter(None, pids):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("state", ["idle", "slow", "hang", "prompt", "loading", "forked"])
def test_a_worker_ends_with_its_parent(state: str, tmp_path: Path, slow_gguf: Path) -> None:
    with another_program(state, tmp_path, slow_gguf) as (parent, pids):
        assert not has_ended(pids[0])
        parent.kill()
        assert seconds(lambda: until(lambda: has_ended(pids[0]))) < SOON


def test_a_worker_outlives_the_thread_that_started_it(far: LlamaForge) -> None:
    loader = threading.Thread(target=far.load_model, args=["fault"])
    loader.start()
    loader.join()
    pid = worker_of(far).pid
    assert is_well(far) and worker_of(far).pid == pid


def test_a_worker_knows_no_secret(far: LlamaForge, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    far.load_model("fault")
    environment = worker_of(far).environ()
    assert CANARY not in environment.values() and not environment.keys() & set(SECRETS)
    assert environment["CUDA_VISIBLE_DEVICES"] == "3" and "PATH" in environment


def test_what_is_printed_is_no_answer_and_no_error(far: LlamaForge) -> None:
    far.load_model("fault")
    assert result_of(ask(far, "noisy")).text == "0 1 2 quiet"
    assert is_well(far)


def test_who_asks_a_question_in_a_worker_gets_no_answer_and_no_line(far: LlamaForge) -> None:
    far.load_model("fault")
    assert result_of(ask(far, "asks")).text == "0 1 2 read b''"
    assert is_well(far)


def test_a_crash_leaves_no_dump_of_the_memory(far: LlamaForge) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    far.load_model("fault")
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    assert result_of(ask(far, "core_limit", after=0)).text == "0"


def test_the_last_lines_of_stderr_are_the_details_and_not_in_the_sentence(far: LlamaForge) -> None:
    far.load_model("fault")
    result_of(ask(far, "noisy"))
    error = result_of(ask(far, "segv")).error
    assert isinstance(error, GenerationError)
    assert error.details.endswith("the last words of an engine") and "last words" not in str(error)
    assert len(error.details) < 2**20


def test_the_trace_of_an_exception_is_in_the_details_only(far: LlamaForge) -> None:
    far.load_model("fault")
    error = result_of(ask(far, "raise_at")).error
    assert isinstance(error, GenerationError)
    assert "Traceback" in error.details and "_raise_at" in error.details
    assert str(error) == "The model stopped with an error: ValueError: the weights melted"


def test_an_engine_that_takes_long_to_import_is_not_taken_for_dead(
    far: LlamaForge, custom: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_backend, "HANG_PATIENCE", 4.0)
    custom("if IN_WORKER: time.sleep(5)")
    far.load_model("custom")
    assert far.status.state == "ready"


def test_a_module_that_fails_only_in_the_worker_is_a_failed_load(
    far: LlamaForge, custom: Callable[[str], None]
) -> None:
    custom("if IN_WORKER: raise OSError('no such library')")
    with pytest.raises(ModelError, match="could not be loaded: it crashed") as caught:
        far.load_model("custom")
    assert "no such library" in caught.value.details and far.status.state == "empty"


@pytest.mark.parametrize("isolate", [False, True], ids=["near", "far"])
def test_a_stop_that_fails_ends_the_answer_all_the_same(
    far: LlamaForge, custom: Callable[[str], None], isolate: bool
) -> None:
    far._isolate = isolate
    custom("    def stop(self): raise RuntimeError('no brakes')")
    far.load_model("custom")
    answer = begun(far.generate_stream("hi"))
    answer.stop()
    assert result_of(answer, SOON).finish_reason == "cancelled"
    assert far.generate("briefly") == "0 1 2 "


def test_a_backend_that_was_registered_as_a_class_stays_in_this_process(far: LlamaForge) -> None:
    register_backend("near", FaultBackend)
    far.add_model("near", "nowhere", "near")
    far.load_model("near")
    assert is_well(far) and not workers()


def test_a_forge_that_is_let_go_of_ends_its_worker(tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path, isolate=True)
    with isolated(tmp_path / "other"):
        forge.add_model("fault", "nowhere", "fault")
        forge.load_model("fault")
        assert len(workers()) == 1
        del forge
        gc.collect()
        until(lambda: not workers())


def test_a_worker_that_cannot_be_started_is_a_failed_load(far: LlamaForge, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(ModelError, match="could not be started"):
        patch.setattr(sys, "executable", "/no/python/here")
        far.load_model("fault")
    far.load_model("fault")
    assert is_well(far)


def test_a_worker_that_cannot_be_started_again_is_told_of(far: LlamaForge, monkeypatch: pytest.MonkeyPatch) -> None:
    far.load_model("fault")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/no/python/here")
        worker_of(far).kill()
        assert isinstance(result_of(ask(far)).error, LlamaForgeError)
        until(lambda: far.status.state == "empty")
    assert far.status.error is not None
    far.load_model("fault")
    assert is_well(far)


def test_a_message_too_long_for_the_pipe_is_refused(far: LlamaForge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_backend, "LONGEST_LINE", 100_000)
    far.load_model("fault")
    error = result_of(far.generate_stream("x" * 200_000)).error
    assert isinstance(error, GenerationError) and "too long" in str(error)
    assert is_well(far)


def test_a_long_message_to_a_frozen_worker_blocks_nobody(far: LlamaForge) -> None:
    far.load_model("fault")
    worker_of(far).suspend()
    answers = [far.generate_stream("x" * 5_000_000) for _ in range(2)]
    assert seconds(lambda: [far.position(answer) for answer in answers]) < 1
    answers[0].stop()
    assert result_of(answers[0], SOON).finish_reason == "cancelled"
    answers[1].stop()
    assert result_of(answers[1], SOON).finish_reason == "cancelled" and is_well(far)
