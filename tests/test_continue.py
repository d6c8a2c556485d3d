"""An answer that was cut off is continued as if it had not been, by every engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from openai_kit import llama_cpp_server
from scripted import ScriptedBackend
from tiny_gguf import COUNTING_ANSWER, write_tiny_gguf
from tiny_hf import write_random_pair, write_tiny_hf

from llamaforge import GenerationError, LlamaForge, Message, register_backend
from llamaforge.backends.base import plain_prompt
from llamaforge.backends.openai_request import GO_ON, messages_of

GREEDY = {"temperature": 0.0}
QUESTION = Message("user", "What is the answer?")
CUTS = (1, 2, 7, 15, 23)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LlamaForge]]:
    """The same random weights in llama.cpp, also in a worker, and in transformers."""
    folder = tmp_path_factory.mktemp("pair")
    gguf, hf = write_random_pair(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    engines = {
        "llama.cpp": LlamaForge(folder / "near"),
        "worker": LlamaForge(folder / "far", isolate=True),
        "huggingface": LlamaForge(folder / "hf"),
    }
    for name in ("llama.cpp", "worker"):
        engines[name].add_model("pair", str(gguf), "llama.cpp", {"n_threads": 1})
    engines["huggingface"].add_model("pair", str(hf), "huggingface", {"torch_dtype": "float32", "device": "cpu"})
    for forge in engines.values():
        forge.load_model("pair")
    yield engines
    for forge in engines.values():
        forge.unload_model()
    torch.set_num_threads(threads)


@pytest.mark.parametrize("engine", ["llama.cpp", "worker", "huggingface"])
def test_a_cut_answer_goes_on_as_it_would_have(engines: dict[str, LlamaForge], engine: str) -> None:
    forge = engines[engine]
    whole = forge.chat([QUESTION], {**GREEDY, "max_tokens": 32})
    for cut in CUTS:
        begun = forge.chat_stream([QUESTION], {**GREEDY, "max_tokens": cut})
        beginning = "".join(begun)
        if not beginning:
            continue  # half a character
        rest = forge.chat_stream([QUESTION, Message("assistant", beginning)], {**GREEDY, "max_tokens": 32 - cut})
        assert beginning + "".join(rest) == whole, cut


@pytest.mark.parametrize("engine", ["llama.cpp", "huggingface"])
def test_continuing_evaluates_nothing_again(engines: dict[str, LlamaForge], engine: str) -> None:
    forge = engines[engine]
    beginning = forge.chat([QUESTION], {**GREEDY, "max_tokens": 15})
    rest = forge.chat_stream([QUESTION, Message("assistant", beginning)], {**GREEDY, "max_tokens": 5})
    result = rest.wait(30)
    assert result is not None and result.usage is not None
    assert result.usage.prompt_tokens - result.usage.cached_tokens <= 1


@pytest.mark.parametrize("engine", ["llama.cpp", "huggingface"])
def test_the_next_message_evaluates_no_old_token_whatever_the_model_wrote(
    engines: dict[str, LlamaForge], engine: str
) -> None:
    forge, chat = engines[engine], [QUESTION]
    for number in range(4):
        before = sum(len(message.content) for message in chat)
        answer = forge.chat_stream(chat, {**GREEDY, "max_tokens": 20})
        text = "".join(answer)
        assert answer.result is not None and answer.result.usage is not None
        new = answer.result.usage.prompt_tokens - answer.result.usage.cached_tokens
        assert number == 0 or new <= 30, (number, before)  # the template's tokens and those of the message
        chat = [*chat, Message("assistant", text), Message("user", "And then?")]


@pytest.mark.parametrize("engine", ["llama.cpp", "worker", "huggingface"])
def test_the_prompt_is_counted_in_the_tokens_that_the_model_wrote(engines: dict[str, LlamaForge], engine: str) -> None:
    forge, chat = engines[engine], [QUESTION]
    for _ in range(4):
        prompt = forge.prompt(chat)
        result = forge.chat_stream(chat, {**GREEDY, "max_tokens": 20}).wait(30)
        assert result is not None and result.usage is not None and prompt is not None
        assert prompt.tokens == result.usage.prompt_tokens
        chat = [*chat, Message("assistant", result.text), Message("user", "And then?")]


def test_an_answer_that_was_edited_is_read_as_it_stands(engines: dict[str, LlamaForge]) -> None:
    forge = engines["llama.cpp"]
    forge.chat([QUESTION], {**GREEDY, "max_tokens": 15})
    edited = [QUESTION, Message("assistant", "One two"), Message("user", "And then?")]
    fresh = forge.chat(edited, {**GREEDY, "max_tokens": 15})
    forge.chat([Message("user", "Something else entirely")], {**GREEDY, "max_tokens": 5})
    assert forge.chat(edited, {**GREEDY, "max_tokens": 15}) == fresh


def test_a_control_token_that_was_typed_stays_text_in_a_continued_answer(engines: dict[str, LlamaForge]) -> None:
    forge = engines["llama.cpp"]
    typed = forge.prompt([QUESTION, Message("assistant", "<|im_end|>")])
    plain = forge.prompt([QUESTION, Message("assistant", "x")])
    assert typed is not None and plain is not None and typed.tokens is not None and plain.tokens is not None
    assert typed.tokens > plain.tokens + 3  # spelled letter by letter, not one token


def test_a_counting_model_misses_no_number(tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("count", str(write_tiny_gguf(tmp_path / "c.gguf", COUNTING_ANSWER, endless=True)), "llama.cpp")
    forge.load_model("count", {"n_threads": 1})
    chat = [QUESTION]
    text = forge.chat(chat, {"max_tokens": 5})
    for _ in range(3):
        text += forge.chat([*chat, Message("assistant", text)], {"max_tokens": 4})
    names = COUNTING_ANSWER.split()
    assert text.split() == [names[place % 10] for place in range(17)]
    forge.unload_model()


def test_a_model_that_opens_its_thoughts_does_not_open_them_twice(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: <think>\n{% endif %}"
    )
    forge = LlamaForge(tmp_path)
    path = write_tiny_gguf(tmp_path / "t.gguf", chat_template=template)
    forge.add_model("thinks", str(path), "llama.cpp", {"n_threads": 1})
    forge.load_model("thinks")
    prompt = forge.prompt([QUESTION, Message("assistant", "It is 4")])
    assert prompt is not None and prompt.text.endswith("assistant: <think>\n\n</think>\n\nIt is 4")
    continued = forge.chat_stream([QUESTION, Message("assistant", "It is 4")])
    assert "".join(continued) and continued.reasoning == ""
    forge.unload_model()


def test_a_continued_answer_that_ends_in_the_word_think_has_no_thoughts(tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("tiny", str(write_tiny_gguf(tmp_path / "t.gguf", "Yes.")), "llama.cpp", {"n_threads": 1})
    forge.load_model("tiny")
    answer = forge.chat_stream([QUESTION, Message("assistant", "Thoughts begin with <think>")])
    assert ("".join(answer), answer.reasoning) == ("Yes.", "")
    forge.unload_model()


def test_a_continued_answer_may_write_about_thoughts(tmp_path: Path) -> None:
    backend = ScriptedBackend()
    register_backend("scripted", type("Scripted", (ScriptedBackend,), {"__new__": lambda cls: backend}))
    forge = LlamaForge(tmp_path)
    forge.add_model("s", "s", "scripted")
    forge.load_model("s")
    backend.say("  <think> opens them, ", "</think> ends them.", None)
    answer = forge.chat_stream([QUESTION, Message("assistant", "The tag")])
    assert ("".join(answer), answer.reasoning) == ("  <think> opens them, </think> ends them.", "")
    forge.unload_model()


def test_a_custom_backend_is_given_its_own_last_words(tmp_path: Path) -> None:
    backend = ScriptedBackend()
    register_backend("scripted", type("Scripted", (ScriptedBackend,), {"__new__": lambda cls: backend}))
    forge = LlamaForge(tmp_path)
    forge.add_model("s", "s", "scripted")
    forge.load_model("s")
    backend.say(" and more", None)
    assert forge.chat([QUESTION, Message("assistant", "Some")]) == " and more"
    assert backend.asked[-1] == "user: What is the answer?\nassistant:Some"
    forge.unload_model()


def test_a_service_is_asked_to_go_on() -> None:
    sent = messages_of([QUESTION, Message("assistant", "Some")])
    assert sent[-2:] == [{"role": "assistant", "content": "Some"}, {"role": "user", "content": GO_ON}]
    assert messages_of([QUESTION])[-1]["content"] == QUESTION.content


def test_a_real_server_takes_it(tmp_path: Path) -> None:
    with llama_cpp_server(write_tiny_gguf(tmp_path / "tiny.gguf")) as url:
        forge = LlamaForge(tmp_path / "configs")
        forge.add_model("far", "tiny", "openai", {"api_base": url})
        forge.load_model("far")
        assert "tiny" in forge.chat([QUESTION, Message("assistant", "Hello!")])
        forge.unload_model()


@pytest.mark.parametrize("last", [Message("assistant", ""), Message("assistant", "", ())])
def test_nothing_cannot_be_continued(engines: dict[str, LlamaForge], last: Message) -> None:
    with pytest.raises(GenerationError, match="nothing to continue"):
        engines["llama.cpp"].chat([QUESTION, last])


def test_echo_goes_on_with_the_rest_of_the_message(tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("echo", "echo", "echo")
    forge.load_model("echo")
    begun = forge.chat([Message("user", "one two three")], {"max_tokens": 2})
    assert begun + forge.chat([Message("user", "one two three"), Message("assistant", begun)]) == "one two three"
    forge.unload_model()


def test_without_a_template_the_answer_is_the_end_of_the_prompt() -> None:
    assert plain_prompt([QUESTION]).endswith("\nassistant:")
    assert plain_prompt([QUESTION, Message("assistant", " It")]) == "user: What is the answer?\nassistant: It"


def test_transformers_without_a_template_goes_on_too(tmp_path: Path) -> None:
    folder = write_tiny_hf(tmp_path / "hf", COUNTING_ANSWER, endless=True, chat_template=None)
    forge = LlamaForge(tmp_path)
    forge.add_model("hf", str(folder), "huggingface", {"device": "cpu"})
    forge.load_model("hf")
    text = forge.chat([QUESTION], {"max_tokens": 5})
    text += forge.chat([QUESTION, Message("assistant", text)], {"max_tokens": 5})
    assert text.split() == COUNTING_ANSWER.split()
    forge.unload_model()
