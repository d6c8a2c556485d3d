"""The same weights say the same through every engine: greedy, in 32 bits, token by token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from openai_kit import llama_cpp_server
from tiny_hf import write_random_pair

from llamaforge import LlamaForge, Message

SAME = {"temperature": 0.0, "repeat_penalty": 1.0, "max_tokens": 40}
CHATS = {
    "a question": ["What is the answer?"],
    "three turns": ["Hello", "I am a model.", "tell me a short story about the world"],
    "Japanese and an emoji": ["日本語で答えてください 🦙"],
    "Greek and Arabic": ["Καλημέρα κόσμε, مرحبا بالعالم"],
    "code": ["def f(x):\n\treturn x ** 2  # 1234567890"],
    "a long one": ["count the words of the text please " * 20],
}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LlamaForge]]:
    """The same random weights in llama.cpp, in transformers, and at a server that this project did not write."""
    folder = tmp_path_factory.mktemp("pair")
    gguf, hf = write_random_pair(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    engines = {name: LlamaForge(folder / name) for name in ("llama.cpp", "huggingface", "openai")}
    exact = {"f16_kv": False, "flash_attn": False, "n_threads": 1}
    engines["llama.cpp"].add_model("pair", str(gguf), "llama.cpp", exact)
    engines["huggingface"].add_model("pair", str(hf), "huggingface", {"torch_dtype": "float32", "device": "cpu"})
    with llama_cpp_server(gguf, "--type_k", "0", "--type_v", "0", "--flash_attn", "False") as url:
        engines["openai"].add_model("pair", "tiny", "openai", {"api_base": url})
        for forge in engines.values():
            forge.load_model("pair")
        yield engines
        for forge in engines.values():
            forge.unload_model()
    torch.set_num_threads(threads)


def chat_of(texts: list[str]) -> list[Message]:
    return [Message("assistant" if number % 2 else "user", text) for number, text in enumerate(texts)]


@pytest.mark.parametrize("name", CHATS)
def test_llama_cpp_transformers_and_a_server_say_the_same(engines: dict[str, LlamaForge], name: str) -> None:
    answers = {engine: forge.chat_stream(chat_of(CHATS[name]), SAME) for engine, forge in engines.items()}
    said = {engine: "".join(answer) for engine, answer in answers.items()}
    results = [answers[engine].result for engine in ("llama.cpp", "huggingface")]  # the server counts no tokens
    assert len({result.usage.prompt_tokens for result in results if result and result.usage}) == 1
    assert said["llama.cpp"] == said["huggingface"] == said["openai"]
    assert len(said["llama.cpp"]) > 40


def test_the_answers_differ_from_prompt_to_prompt(engines: dict[str, LlamaForge]) -> None:
    said = {engines["llama.cpp"].chat(chat_of(texts), SAME) for texts in CHATS.values()}
    assert len(said) == len(CHATS)
