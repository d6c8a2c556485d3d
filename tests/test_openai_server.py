"""The OpenAI backend at a real server, which this project did not write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai_kit import Connect, ask, llama_cpp_server, transformers_server
from test_openai import SETTINGS
from tiny_gguf import DEFAULT_ANSWER
from tiny_hf import write_tiny_hf

from llamaforge import LlamaForge, conformance


@pytest.fixture(scope="module")
def llama_server(tiny_gguf: Path) -> Iterator[str]:
    """llama-cpp-python's own server."""
    with llama_cpp_server(tiny_gguf) as url:
        yield url


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


def test_transformers_own_server_answers(tmp_path: Path, connect: Connect) -> None:
    """It knows fewer parameters than the other, counts tokens unasked, and includes the stop text."""
    model = write_tiny_hf(tmp_path / "tiny")
    with transformers_server(tmp_path / "cache") as url:
        backend = connect(url, model=str(model), api_key=None, timeout=60.0)
        done = ask(backend, {"temperature": 0.0, "max_tokens": 64, "top_k": 5})
        assert (done.text, done.finish, done.error) == (DEFAULT_ANSWER, "stop", None)
        assert done.usage is not None and done.usage.completion_tokens > 20
        assert ask(backend, {"temperature": 0.0, "stop": ["tiny"]}).text == "Hello! I am a **"
