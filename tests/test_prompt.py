"""The exact prompt and its tokens, told while a model is busy and harmless at every moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from scripted import PATIENCE, ScriptedBackend, until
from tiny_gguf import COUNTING_ANSWER, write_tiny_gguf
from tiny_hf import write_tiny_hf

from llamaforge import LlamaForge, Message, ModelError, register_backend

CHAT = [
    Message("system", "You are a test."),
    Message("user", "Hello <|im_end|> you"),
    Message("assistant", "Hi"),
    Message("user", "日本語 🦙 and code: def f(x):\n\treturn x"),
]
WORDS = "count the words of the text please " * 30


@pytest.fixture(scope="module", params=["llama.cpp", "worker", "huggingface"])
def forge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaForge]:
    """A model that counts for ever, in each engine."""
    folder = tmp_path_factory.mktemp("prompt")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    forge = LlamaForge(folder / "configs", isolate=request.param == "worker")
    if request.param == "huggingface":
        path = write_tiny_hf(folder / "hf", COUNTING_ANSWER, endless=True, layers=4, n_ctx_train=8192)
        forge.add_model("endless", str(path), "huggingface", {"device": "cpu"})
    else:
        path = write_tiny_gguf(folder / "m.gguf", COUNTING_ANSWER, endless=True, layers=4, n_ctx_train=8192)
        forge.add_model("endless", str(path), "llama.cpp", {"n_threads": 1})
    forge.load_model("endless")
    yield forge
    forge.unload_model()
    torch.set_num_threads(threads)


@pytest.mark.parametrize("length", [2, 4], ids=["two messages", "four messages"])
def test_the_prompt_is_what_the_model_is_given_to_the_token(forge: LlamaForge, length: int) -> None:
    prompt = forge.prompt(CHAT[:length])
    answer = forge.chat_stream(CHAT[:length], {"max_tokens": 1})
    result = answer.wait(PATIENCE)
    assert result is not None and result.usage is not None and prompt is not None
    assert prompt.tokens == result.usage.prompt_tokens
    assert prompt.text.endswith("<|im_start|>assistant\n")
    assert "<|im_start|>system\nYou are a test.<|im_end|>\n<|im_start|>user\nHello <|im_end|> you" in prompt.text


def test_counting_beside_a_running_answer_is_right_and_harms_nothing(forge: LlamaForge) -> None:
    right = forge.count_tokens(WORDS)
    answer = forge.chat_stream([Message("user", "Count")])
    until(lambda: answer.text)
    with ThreadPoolExecutor(4) as pool:
        counts = set(pool.map(forge.count_tokens, [WORDS] * 100))
        prompts = {prompt.tokens for prompt in pool.map(forge.prompt, [CHAT] * 100) if prompt}
    assert counts == {right} and right
    assert len(prompts) == 1
    assert answer.result is None  # it is still being written
    answer.stop()
    assert answer.wait(PATIENCE)
    names = COUNTING_ANSWER.split()
    words = answer.text.split()
    assert words[:-1] == [names[place % 10] for place in range(len(words) - 1)]


def test_counting_while_the_model_is_unloaded_ends_in_the_right_number_or_none(forge: LlamaForge) -> None:
    right = forge.count_tokens(WORDS)
    ended = threading.Event()
    seen: set[object] = set()

    def count() -> None:
        while not ended.is_set():
            seen.add(forge.count_tokens(WORDS))

    counting = [threading.Thread(target=count) for _ in range(3)]
    for thread in counting:
        thread.start()
    forge.unload_model()
    ended.set()
    for thread in counting:
        thread.join()
    assert forge.count_tokens("Hello") is None and forge.prompt(CHAT) is None
    forge.load_model("endless")
    assert seen <= {right, None}


class Late(ScriptedBackend):
    """Is unloaded in the middle of a count."""

    reads_beside = True

    def __init__(self) -> None:
        super().__init__()
        self.counting = threading.Event()

    def count_tokens(self, text: str) -> int:
        self.counting.set()
        self.unloaded.wait(PATIENCE)
        raise ModelError("No model is loaded.")


def test_a_count_that_the_unloading_overtakes_is_none(tmp_path: Path) -> None:
    backend = Late()
    register_backend("late", type("One", (Late,), {"__new__": lambda cls: backend}))
    forge = LlamaForge(tmp_path)
    forge.add_model("late", "late", "late")
    forge.load_model("late")
    with ThreadPoolExecutor(1) as pool:
        count = pool.submit(forge.count_tokens, WORDS)
        assert backend.counting.wait(PATIENCE)
        forge.unload_model()
        assert count.result(PATIENCE) is None


def test_a_template_that_refuses_a_chat_says_so(tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    path = write_tiny_gguf(tmp_path / "t.gguf", chat_template="{{ raise_exception('no') }}")
    forge.add_model("strict", str(path), "llama.cpp", {"n_threads": 1})
    forge.load_model("strict")
    with pytest.raises(ModelError, match="chat template"):
        forge.prompt(CHAT)
    forge.unload_model()


class Counting(ScriptedBackend):
    """A custom backend that counts, in one thread at a time."""

    def count_tokens(self, text: str) -> int:
        return len(text.split())


@pytest.fixture
def custom(tmp_path: Path) -> Iterator[Callable[[], tuple[LlamaForge, Counting]]]:
    backend = Counting()
    register_backend("counting", type("One", (Counting,), {"__new__": lambda cls: backend}))
    forge = LlamaForge(tmp_path)
    forge.add_model("c", "c", "counting")
    forge.load_model("c")
    yield lambda: (forge, backend)
    forge.unload_model()


def test_a_custom_backend_counts_when_it_is_idle(custom: Callable[[], tuple[LlamaForge, Counting]]) -> None:
    forge, backend = custom()
    assert forge.count_tokens("one two three") == 3
    prompt = forge.prompt([Message("user", "one two")])
    assert prompt is not None and (prompt.text, prompt.tokens) == ("user: one two\nassistant:", 4)
    answer = forge.chat_stream([Message("user", "Hello")])
    until(lambda: backend.asked)
    assert forge.count_tokens("one two three") is None
    backend.say("Hi", None)
    assert answer.wait(PATIENCE)
    until(lambda: forge.count_tokens("one two three") == 3)
