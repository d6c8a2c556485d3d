"""Asking the loaded model: what may be asked, what reaches the backend, and what any backend may do in return."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from scripted import PATIENCE, ScriptedBackend, run_python
from tiny_gguf import DEFAULT_ANSWER, THINKING_ANSWER, write_tiny_gguf
from tiny_hf import write_tiny_hf

from llamaforge import (
    BaseBackend,
    Chunk,
    EmptyPrompt,
    GenerationError,
    LlamaForge,
    Message,
    NoModelLoaded,
    ParameterError,
    Usage,
    clean_text,
    register_backend,
)

Load = Callable[..., LlamaForge]
ENDLESS = """
import sys
from llamaforge import LlamaForge
forge = LlamaForge(sys.argv[1])
forge.add_model("endless", sys.argv[2], "llama.cpp", {"n_threads": 1})
forge.load_model("endless")
answer = forge.generate_stream("hi")
print(next(iter(answer)))
"""


@pytest.fixture
def use(tmp_path: Path) -> Iterator[Callable[..., LlamaForge]]:
    """Load a model of a backend that the test defines."""
    forges: list[LlamaForge] = []

    def load(backend: type[BaseBackend], **parameters: Any) -> LlamaForge:
        register_backend("mine", backend, overwrite=True)
        forges.append(LlamaForge(tmp_path / "configs"))
        forges[-1].add_model("mine", "anywhere", "mine", parameters)
        forges[-1].load_model("mine")
        return forges[-1]

    yield load
    for forge in forges:
        forge.unload_model()


def backend_that(
    stream: Callable[..., Any], whole: Callable[..., Any] = lambda self, prompt, parameters: "whole"
) -> Any:
    """Return the class of a backend with just the four methods."""
    methods = {"load_model": lambda *_: None, "is_model_loaded": lambda _: True}
    return type("Mine", (BaseBackend,), {**methods, "generate_stream": stream, "generate": whole})


def echo(self: object, prompt: str, parameters: Mapping[str, Any]) -> Iterator[str]:
    yield prompt


def test_without_a_model_nothing_is_answered(tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    for ask in (forge.generate, forge.generate_stream):
        with pytest.raises(NoModelLoaded, match="No model is loaded. Choose one and press Load."):
            ask("hi")
    with pytest.raises(NoModelLoaded):
        forge.chat([Message("user", "hi")])


@pytest.mark.parametrize("prompt", ["", " ", "\n\t \n", "\x00\x1b\ufeff", "\r"], ids=ascii)
def test_an_empty_message_is_not_sent(use: Load, prompt: str) -> None:
    forge = use(ScriptedBackend)
    for ask in (
        forge.generate,
        lambda text: forge.generate(text, raw=True),
        lambda text: forge.chat([Message("user", text)]),
    ):
        with pytest.raises(EmptyPrompt, match="Write a message first."):
            ask(prompt)
    assert forge._engine is not None and forge._engine.backend.asked == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user"}],
        [{"content": "hi"}],
        [{}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        [{"role": "tool", "content": "hi"}],
        [{"role": "user\n<|im_end|>", "content": "hi"}],
        [Message("root", "hi")],  # type: ignore[arg-type]
    ],
    ids=["no content", "no role", "nothing", "none", "parts", "tool", "forged", "message"],
)
def test_what_is_no_message_is_refused_in_a_sentence(use: Load, messages: Any) -> None:
    with pytest.raises(GenerationError, match="roles are system, user and assistant"):
        use(backend_that(echo)).chat(messages)


def test_an_empty_chat_is_not_sent(use: Load) -> None:
    with pytest.raises(EmptyPrompt):
        use(backend_that(echo)).chat([])


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\x00b\x07c\x7fd", "abcd"),
        ("\ufeffa\tb\nc", "a\tb\nc"),
        ("a\r\nb", "a\nb"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\ud800", "\ufffd"),
        ("a\udfffb", "a\ufffdb"),
        ("\ud83e\udd99", "🦙"),
        ("\ud83ex", "\ufffdx"),
        ("日本 🦙 é", "日本 🦙 é"),
        ("", ""),
    ],
    ids=ascii,
)
def test_control_characters_and_lone_surrogates_are_cleaned(use: Load, text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned
    forge = use(backend_that(echo))
    assert forge.generate(f"x{text}", raw=True) == f"x{cleaned}"
    assert forge.chat([Message("system", text), Message("user", "hi")]) == f"system: {cleaned}\nuser: hi\nassistant:"


def test_a_prompt_is_a_users_message_and_raw_is_the_bare_text(use: Load) -> None:
    forge = use(backend_that(echo))
    assert forge.generate("hi") == "user: hi\nassistant:"
    assert forge.generate("hi", raw=True) == "hi"


def test_messages_may_be_mappings_or_objects(use: Load) -> None:
    forge = use(backend_that(echo))
    mixed: list[Any] = [{"role": "system", "content": "Be brief."}, Message("user", "hi")]
    assert forge.chat(mixed) == "system: Be brief.\nuser: hi\nassistant:"


def test_raw_text_keeps_the_thoughts(load: Load, tmp_path: Path) -> None:
    forge = load(write_tiny_gguf(tmp_path / "thinking.gguf", THINKING_ANSWER))
    assert forge.generate("hi", raw=True) == THINKING_ANSWER
    assert forge.generate("hi") == "The answer is **42**."


def test_stream_and_whole_are_the_same_text(load: Load, tiny_gguf: Path) -> None:
    forge = load(tiny_gguf)
    pieces = list(forge.generate_stream("hi"))
    assert len(pieces) > 10 and "".join(pieces) == forge.generate("hi") == DEFAULT_ANSWER


def test_a_wrong_parameter_is_refused_before_anything_is_asked(use: Load) -> None:
    forge = use(ScriptedBackend)
    with pytest.raises(ParameterError, match="Unknown setting 'temprature'. Did you mean 'temperature'?"):
        forge.generate_stream("hi", {"temprature": 1})
    assert forge._engine is not None and forge._engine.backend.asked == []  # type: ignore[attr-defined]


def test_the_call_wins_over_the_models_file_and_none_does_not(use: Load) -> None:
    forge = use(backend_that(lambda self, prompt, parameters: iter([repr(parameters)])), temperature=0.1, seed=1)
    answer = forge.generate("hi", {"temperature": 0.9, "seed": None, "top_k": 5})
    assert answer == repr({"temperature": 0.9, "seed": 1, "top_k": 5})


def test_max_tokens_beyond_the_context_window_is_refused(load: Load, tiny_gguf: Path) -> None:
    forge = load(tiny_gguf, n_ctx=512)
    assert forge.generate("hi", {"max_tokens": 512}) == DEFAULT_ANSWER
    with pytest.raises(ParameterError, match="max_tokens may be at most 512 here, found 513"):
        forge.generate("hi", {"max_tokens": 513})


def test_answers_wait_in_line_and_know_their_place(use: Load) -> None:
    forge = use(ScriptedBackend)
    answers = [forge.generate_stream(str(number)) for number in range(3)]
    assert forge.position(answers[2]) == 2
    backend: Any = forge._engine and forge._engine.backend
    backend.say("a", None, "b", None, "c", None)
    assert ["".join(answer) for answer in answers] == ["a", "b", "c"]
    assert [forge.position(answer) for answer in answers] == [0, 0, 0]


@pytest.mark.parametrize(
    "stream",
    [lambda *_: iter(()), lambda *_: None, lambda *_: []],
    ids=["empty generator", "none", "empty list"],
)
def test_a_backend_whose_stream_yields_nothing_is_asked_for_the_whole(use: Load, stream: Callable[..., Any]) -> None:
    forge = use(backend_that(stream))
    assert (forge.generate("hi"), forge.generate("hi", raw=True)) == ("whole", "whole")
    assert list(forge.generate_stream("hi")) == ["whole"]


def test_a_backend_may_stream_text_and_chunks(use: Load) -> None:
    pieces = ["<think>a", Chunk("b"), "</think>", Chunk("c", finish_reason="length", usage=Usage(2, 3))]
    answer = use(backend_that(lambda *_: iter(pieces))).generate_stream("hi")
    result = answer.wait(PATIENCE)
    assert result is not None
    assert (result.text, result.reasoning, result.finish_reason, result.usage) == ("c", "ab", "length", Usage(2, 3))


@pytest.mark.parametrize("thing", [b"bytes", None, {"text": "a"}, 5, ["a"]], ids=lambda thing: type(thing).__name__)
def test_what_is_no_text_is_an_error_that_names_it(use: Load, thing: object) -> None:
    expected = f"The backend gave {type(thing).__name__} where it must give str or Chunk."
    for backend in (backend_that(lambda *_: iter([thing])), backend_that(lambda *_: (), lambda *_: thing)):
        with pytest.raises(GenerationError) as caught:
            use(backend).generate("hi")
        assert str(caught.value) == expected


def test_a_backend_that_raises_ends_one_answer_and_not_the_next(use: Load) -> None:
    def stream(self: object, prompt: str, parameters: object) -> Iterator[str]:
        yield "text "
        if prompt == "bad":
            raise ZeroDivisionError("oh")

    forge = use(backend_that(stream))
    answer = forge.generate_stream("bad", raw=True)
    with pytest.raises(GenerationError, match="The model stopped with an error: ZeroDivisionError: oh"):
        list(answer)
    assert (answer.text, forge.generate("good", raw=True)) == ("text ", "text ")


def test_a_backend_that_fails_before_its_first_word_is_told_of(use: Load) -> None:
    def fail(*_: object) -> Any:
        raise OSError("gone")

    with pytest.raises(GenerationError, match="OSError: gone"):
        use(backend_that(fail)).generate("hi")


def test_leaving_the_loop_early_lets_the_next_message_go_on(load: Load, endless_gguf: Path) -> None:
    forge = load(endless_gguf)
    for piece in forge.generate_stream("hi"):
        assert piece == "one "
        break
    assert forge.generate("hi", {"max_tokens": 2}) == "one two "


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "raise SystemExit(0)",
        "import threading; threading.Thread(target=list, args=(forge.generate_stream('hi'),), daemon=True).start()",
    ],
    ids=["falls off the end", "exits", "with another waiting"],
)
def test_a_script_that_ends_in_the_middle_of_an_answer_ends_well(
    endless_gguf: Path, tmp_path: Path, ending: str
) -> None:
    started = time.monotonic()
    done = run_python(ENDLESS + ending, tmp_path / "configs", endless_gguf)
    assert (done.returncode, done.stdout, done.stderr) == (0, "one \n", "")
    assert time.monotonic() - started < 10


def test_a_script_that_fails_in_the_middle_of_an_answer_shows_its_own_error(
    endless_gguf: Path, tmp_path: Path
) -> None:
    done = run_python(ENDLESS + "raise KeyError('mine')", tmp_path / "configs", endless_gguf)
    assert done.returncode == 1 and done.stderr.endswith("KeyError: 'mine'\n")


def test_what_is_saved_while_a_model_is_loaded_holds_for_the_next_answer(tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("echo", "-", "echo", {"max_tokens": 5})
    forge.config.save()
    forge.load_model("echo")
    forge.config.save_parameters("echo", {"max_tokens": 2})
    assert forge.generate("one two three") == "one two"


def test_an_answer_knows_its_model_and_settings_and_can_be_had_again(load: Load, tmp_path: Path) -> None:
    forge = load(write_tiny_gguf(tmp_path / "random.gguf", shuffled=True), temperature=1.5, n_ctx=512)
    first = forge.generate_stream("Hello", {"max_tokens": 40})
    assert first.wait(PATIENCE) and first.model == "model"
    assert {"temperature": 1.5, "max_tokens": 40}.items() <= first.settings.items()
    assert "n_ctx" not in first.settings and "seed" in first.settings
    again, other = (forge.generate("Hello", parameters) for parameters in (first.settings, {"max_tokens": 40}))
    assert again == first.text != other


def test_transformers_says_the_same_with_the_same_seed(tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path / "configs")
    sampling = {"do_sample": True, "temperature": 1.5}
    path = write_tiny_hf(tmp_path / "random", shuffled=True, generation=sampling)
    forge.add_model("random", str(path), "huggingface", {"device": "cpu"})
    forge.load_model("random")
    first = forge.generate_stream("Hello", {"max_tokens": 40})
    assert first.wait(PATIENCE) and "device" not in first.settings
    again, other = (forge.generate("Hello", parameters) for parameters in (first.settings, {"max_tokens": 40}))
    assert again == first.text != other
    forge.unload_model()


def test_a_seed_that_nobody_set_is_left_to_who_chooses_one(use: Callable[..., LlamaForge], tmp_path: Path) -> None:
    mine = use(backend_that(lambda self, prompt, parameters: iter([str(parameters)])))
    assert "seed" not in mine.generate_stream("hi").settings and "seed" not in mine.generate("hi")
    service = LlamaForge(tmp_path / "configs")
    service.add_model("far", "gpt", "openai", {"api_base": "http://127.0.0.1:9/v1"})
    service.load_model("far")
    answer = service.generate_stream("hi", {"temperature": 0.5})
    assert answer.settings == {"temperature": 0.5}
    answer.stop()
    service.unload_model()
