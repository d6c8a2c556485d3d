"""Fixtures, known to every test by conftest.py: an OpenAI backend at a fault server, and what it answers."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer

from llamaforge import LlamaForgeError, Message, Usage
from llamaforge.backends.openai import OpenAIBackend

CANARY = "sk-canary-5e1f0c2b7a9d4e68"
CHAT = [Message("user", "Hello")]


@dataclass
class Answer:
    """An answer from its first chunk to its end."""

    text: str = ""
    reasoning: str = ""
    finish: str | None = None
    usage: Usage | None = None
    notes: list[str] = field(default_factory=list)
    error: LlamaForgeError | None = None

    @property
    def said(self) -> str:
        return str(self.error)


def ask(backend: OpenAIBackend, settings: dict[str, Any] | None = None, chat: Sequence[Message] = CHAT) -> Answer:
    answer = Answer()
    try:
        for chunk in backend.chat_stream(chat, settings):
            assert not isinstance(chunk, str)
            answer.text += chunk.text
            answer.reasoning += chunk.reasoning
            answer.finish = chunk.finish_reason or answer.finish
            answer.usage = chunk.usage or answer.usage
            answer.notes += [chunk.note] if chunk.note else []
    except LlamaForgeError as error:
        answer.error = error
    return answer


def require_plain(error: LlamaForgeError | None) -> str:
    """Return the text of an error that a person may see."""
    said = str(error)
    assert isinstance(error, LlamaForgeError) and 10 < len(said) <= 300
    assert CANARY not in said + error.details + repr(error) and said.isprintable() and "Traceback" not in said
    return said


@contextmanager
def llama_cpp_server(model: Path, *flags: str) -> Iterator[str]:
    """Run llama-cpp-python's own server on a model, which it calls "tiny"; the address is returned."""
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--model_alias", "tiny"]
    command += ["--n_ctx", "512", "--interrupt_requests", "False", "--n_threads", "1", "--n_threads_batch", "1"]
    with _serving([*command, *flags], "/v1/models") as url:
        yield url


@contextmanager
def transformers_server(cache: Path) -> Iterator[str]:
    """Run `transformers serve`, which loads the folder that a request names as its model; the address is returned."""
    (cache / "hub").mkdir(parents=True)
    command = [str(Path(sys.executable).parent / "transformers"), "serve", "--device", "cpu", "--dtype", "float32"]
    with _serving(command, "/health", HF_HUB_OFFLINE="1", HF_HOME=str(cache), OMP_NUM_THREADS="1") as url:
        yield url


@contextmanager
def _serving(command: list[str], path: str, **variables: str) -> Iterator[str]:
    """Run a server until it answers at a path, and end it in the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*command, "--host", "127.0.0.1", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment | variables
    )
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}{path}", timeout=5):
                return True
        except OSError:
            return False

    try:
        deadline = time.monotonic() + 60
        while not is_up():
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.05)
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait(10)


Connect = Callable[..., OpenAIBackend]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    made = FaultServer()
    yield made
    made.close()


@pytest.fixture
def connect(canary: None) -> Iterator[Connect]:
    """Load a model at an address, with a key from the environment unless told otherwise."""
    made: list[OpenAIBackend] = []

    def load(url: str, model: str = "tiny", **parameters: Any) -> OpenAIBackend:
        made.append(OpenAIBackend())
        made[-1].load_model(model, {"api_base": url, "api_key": "${CANARY_API_KEY}", "timeout": 5.0, **parameters})
        return made[-1]

    yield load
    for backend in made:
        backend.unload_model()


@pytest.fixture
def backend(server: FaultServer, connect: Connect) -> OpenAIBackend:
    return connect(server.url)


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A key that must never be seen in a log, and no proxy and no key of the person who runs the tests."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "OPENAI_API_KEY", "OPENAI_ORG_ID"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("CANARY_API_KEY", CANARY)
    caplog.set_level(logging.DEBUG)
    yield
    assert CANARY not in caplog.text
