"""The OpenAI backend at a real server, which this project did not write."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai_kit import Connect, ask
from test_openai import SETTINGS
from tiny_gguf import DEFAULT_ANSWER

from llamaforge import LlamaForge, conformance


@pytest.fixture(scope="module")
def llama_server(tiny_gguf: Path) -> Iterator[str]:
    """llama-cpp-python's own server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(tiny_gguf), "--model_alias", "tiny"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "512", "--interrupt_requests", "False"]
    command += ["--n_threads", "1", "--n_threads_batch", "1"]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    url = f"http://127.0.0.1:{port}/v1"

    def is_up() -> bool:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/models", timeout=5):
                return True
        except OSError:
            return False

    try:
        deadline = time.monotonic() + 60
        while not is_up():
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def test_a_real_server_answers(llama_server: str, connect: Connect) -> None:
    backend = connect(llama_server, api_key=None)
    assert backend.list_models() == ["tiny"]
    done = ask(backend, {"temperature": 0.0, **SETTINGS, "max_tokens": 64})
    assert (done.text, done.finish, done.error) == (DEFAULT_ANSWER, "stop", None)
    assert ask(backend, {"max_tokens": 3}).finish == "length"
    assert backend.generate("Hello") == DEFAULT_ANSWER


def test_a_chat_too_long_for_a_real_server_is_said(llama_server: str, tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("tiny", "tiny", "openai", {"api_base": llama_server})
    forge.load_model("tiny")
    result = forge.generate_stream("word " * 3000).wait(20)
    forge.unload_model()
    assert result is not None and "too long for the model" in str(result.error)


def test_a_backend_at_a_real_server_holds(llama_server: str, tmp_path: Path, canary: None) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("tiny", "tiny", "openai", {"api_base": llama_server, "api_key": "${CANARY_API_KEY}"})
    outcomes = conformance.run(forge, "tiny", patience=20)
    forge.unload_model()
    table = conformance.table({"openai": outcomes})
    assert {outcome.verdict for outcome in outcomes} <= {"holds", "n/a"}, table
    assert sum(outcome.verdict == "holds" for outcome in outcomes) >= 17, table
