"""A LlamaForge whose models run in a child process, and what must hold after every fault."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fault_backend
import psutil
from canary_kit import look_at
from scripted import PATIENCE, until

from llamaforge import Generation, LlamaForge, Result, register_backend

SOON = 5.0  # seconds in which everything that was stopped or given up has ended
LONG = 60.0


@contextmanager
def isolated(folder: Path, *, isolate: bool = True, longest_line: int = 64, **models: Path) -> Iterator[LlamaForge]:
    """Make a LlamaForge that knows "fault" and GGUF models by name; no child is left when it is done."""
    register_backend("fault", fault_backend.PLACE, overwrite=True)
    forge = LlamaForge(folder / "configs", isolate=isolate, longest_line=longest_line)
    forge.add_model("fault", "nowhere", "fault")
    for name, path in models.items():
        forge.add_model(name, str(path), "llama.cpp", {"n_threads": 1})
    try:
        yield forge
    finally:
        forge.unload_model()
    until(lambda: not workers())


def workers(pid: int | None = None) -> list[psutil.Process]:
    """Return the processes of workers that a process (this one) has started and that are no zombies."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if "llamaforge.worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.Error:
            continue
    return found


def worker_of(forge: LlamaForge) -> psutil.Process:
    pid = forge._engine.backend.pid  # type: ignore[union-attr, attr-defined]
    assert pid is not None  # psutil would take that for this process
    return psutil.Process(pid)


def ask(forge: LlamaForge, mode: str = "ok", **parameters: Any) -> Generation:
    return forge.generate_stream("hi", {"mode": mode, **parameters})


def begun(generation: Generation, pieces: int = 1) -> Generation:
    """Wait until an answer has that many pieces of text; up to ten milliseconds of words are one."""
    until(lambda: generation.length >= pieces or generation.result)
    return generation


def result_of(generation: Generation, seconds: float = PATIENCE) -> Result:
    result = generation.wait(seconds)
    assert result is not None, f"no end within {seconds} s"
    look_at(
        f"{result.text} {result.error} {getattr(result.error, 'details', '')}", "an answer, or a worker's last lines"
    )
    return result


def is_well(forge: LlamaForge) -> bool:
    """Tell whether the next message is answered as if nothing had happened, without any action before."""
    result = result_of(ask(forge, max_tokens=4))
    return (result.text, result.finish_reason, forge.status.state) == ("0 1 2 3 ", "length", "ready")


def seconds(act: Callable[[], object]) -> float:
    begun_at = time.monotonic()
    act()
    return time.monotonic() - begun_at
