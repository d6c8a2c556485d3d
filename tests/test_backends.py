"""The registry of backends, what every backend has by default, and the echo backend."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedBackend

from llamaforge import (
    BackendError,
    BaseBackend,
    Chunk,
    Message,
    ModelCard,
    Usage,
    backend_names,
    get_backend,
    register_backend,
)
from llamaforge.backends.echo import EchoBackend

FOUR_METHODS = """
from llamaforge.backends.base import BaseBackend

class Mine(BaseBackend):
    def load_model(self, model_path, parameters=None): ...
    def generate(self, prompt, parameters=None): ...
    def generate_stream(self, prompt, parameters=None): yield "Streaming response"
    def is_model_loaded(self): return True
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a module that can be imported as `my_backends`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_backends", raising=False)
    yield tmp_path / "my_backends.py"
    sys.modules.pop("my_backends", None)


def registering(name: str, backend: Any, *, overwrite: bool = False) -> str:
    with pytest.raises(BackendError) as caught:
        register_backend(name, backend, overwrite=overwrite)
    return str(caught.value)


def getting(name: str) -> str:
    with pytest.raises(BackendError) as caught:
        get_backend(name)
    return str(caught.value)


def test_the_built_in_backends_come_first() -> None:
    assert backend_names()[0] == "llama.cpp" and "echo" in backend_names()
    register_backend("mine", ScriptedBackend)
    assert backend_names()[-1] == "mine"


def test_a_registered_class_is_found_by_its_name() -> None:
    register_backend("mine", ScriptedBackend)
    assert get_backend("mine") is ScriptedBackend


def test_an_unknown_backend_is_answered_with_the_nearest_or_all() -> None:
    assert getting("lama.cpp") == "Unknown backend 'lama.cpp'. Did you mean 'llama.cpp'?"
    assert getting("quite other").startswith("Unknown backend 'quite other'. Known: llama.cpp, ")


def test_a_taken_name_is_refused_unless_it_is_to_be_overwritten() -> None:
    assert registering("echo", ScriptedBackend) == (
        "Backend 'echo' is already registered. Use overwrite=True to replace it."
    )
    register_backend("echo", ScriptedBackend, overwrite=True)
    assert get_backend("echo") is ScriptedBackend


def test_a_script_that_runs_twice_registers_its_class_anew() -> None:
    for _ in range(2):
        script: dict[str, Any] = {"__name__": "__main__"}
        exec(FOUR_METHODS, script)
        register_backend("mine", script["Mine"])
        assert get_backend("mine") is script["Mine"]


def test_a_place_that_was_imported_may_be_registered_again(module: Path) -> None:
    module.write_text(FOUR_METHODS)
    for _ in range(2):
        register_backend("mine", "my_backends:Mine")
        assert get_backend("mine").__name__ == "Mine"


def test_a_class_by_its_place_is_imported_when_it_is_first_used(module: Path) -> None:
    register_backend("mine", "my_backends:Mine")
    module.write_text(FOUR_METHODS)
    backend = get_backend("mine")()
    assert list(backend.generate_stream("hi")) == ["Streaming response"]


@pytest.mark.parametrize("place", ["", "module", "a:b:c", "module.Class"])
def test_a_place_must_name_module_and_class(place: str) -> None:
    assert registering("mine", place) == f"Backend 'mine' must be given as 'module:Class', found {place!r}."


@pytest.mark.parametrize("thing", [None, 5, object, EchoBackend(), lambda: None], ids=type)
def test_what_is_no_backend_class_is_refused(thing: object) -> None:
    assert registering("mine", thing).startswith("Backend 'mine' must be a class that extends BaseBackend, found ")


def test_a_class_that_lacks_methods_is_refused_by_their_names() -> None:
    class Half(BaseBackend):
        def load_model(self, model_path: str, parameters: Mapping[str, Any] | None = None) -> None: ...

    assert registering("mine", Half) == "Backend 'mine' lacks generate_stream(), is_model_loaded()."


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("def broken(:", "SyntaxError: "),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("Other = 1", "AttributeError: module 'my_backends' has no attribute 'Mine'"),
        ("Mine = 5", "must be a class that extends BaseBackend, found 5."),
    ],
    ids=["import", "syntax", "exit", "error", "no class", "no backend"],
)
def test_a_module_that_cannot_be_imported_does_not_take_the_others_down(
    module: Path, source: str, reason: str
) -> None:
    register_backend("mine", "my_backends:Mine")
    module.write_text(source)
    assert reason in getting("mine")
    assert get_backend("echo") is EchoBackend


def test_a_module_that_was_mended_is_imported_without_a_restart(module: Path) -> None:
    register_backend("mine", "my_backends:Mine")
    module.write_text("1 / 0")
    getting("mine")
    module.write_text(FOUR_METHODS)
    assert get_backend("mine").__name__ == "Mine"


def test_everything_beyond_the_four_methods_has_a_default() -> None:
    backend = ScriptedBackend()
    backend.check("path", {})
    backend.recover()
    assert backend.describe("path") == ModelCard()
    assert (backend.memory_needed("path", {}), backend.memory_used(), backend.count_tokens("a")) == (None, None, None)
    assert (tuple(backend.summary()), tuple(backend.warnings()), dict(backend.ignored)) == ((), (), {})
    assert (backend.context_window, backend.sees_images) == (None, False)


def test_a_backend_answers_at_once_what_it_streams() -> None:
    backend = ScriptedBackend()
    backend.say("a", Chunk("b", finish_reason="stop"), None)
    assert backend.generate("hi") == "ab"


def test_a_chat_becomes_lines_where_a_backend_knows_no_chats() -> None:
    backend = ScriptedBackend()
    backend.say(None)
    list(backend.chat_stream([Message("system", "Be brief."), Message("user", "Hi")]))
    assert backend.asked == ["system: Be brief.\nuser: Hi\nassistant:"]


@pytest.mark.parametrize("method", ["load_model", "generate_stream", "is_model_loaded"])
def test_a_bare_backend_says_what_it_lacks(method: str) -> None:
    arguments = () if method == "is_model_loaded" else ("x",)
    with pytest.raises(NotImplementedError, match=f"BaseBackend has no {method}"):
        getattr(BaseBackend(), method)(*arguments)


@pytest.mark.parametrize(
    "text", ["Hello world", " two  blanks ", "a\n\nb\n", "   ", "", "日本 🦙!", "one"], ids=lambda text: repr(text)
)
def test_echo_says_the_same_words(text: str) -> None:
    backend = EchoBackend()
    assert backend.generate(text) == text
    last = list(backend.generate_stream(text))[-1]
    count = backend.count_tokens(text)
    assert last == Chunk(finish_reason="stop", usage=Usage(count, count))


def test_echo_ends_at_max_tokens() -> None:
    *words, last = EchoBackend().generate_stream("one two three", {"max_tokens": 2})
    assert "".join(word for word in words if isinstance(word, str)) == "one two"
    assert last == Chunk(finish_reason="length", usage=Usage(3, 2))


def test_echo_answers_the_last_message_of_a_chat() -> None:
    chat = [Message("user", "first"), Message("assistant", "first"), Message("user", "second one")]
    assert "".join(piece for piece in EchoBackend().chat_stream(chat) if isinstance(piece, str)) == "second one"


def test_echo_is_loaded_from_load_to_unload() -> None:
    backend = EchoBackend()
    states = [backend.is_model_loaded()]
    for step in (lambda: backend.load_model("any"), backend.unload_model, backend.unload_model):
        step()
        states.append(backend.is_model_loaded())
    assert states == [False, True, False, False]


def test_echo_stops_between_words_however_slow_they_are() -> None:
    backend = EchoBackend()
    stream = backend.generate_stream("one two three", {"tokens_per_second": 10_000})
    pieces = [next(stream), next(stream)]
    backend.stop()
    assert pieces[1] == "one"
    assert list(stream) == [Chunk(finish_reason="cancelled", usage=Usage(3, 1))]
    assert backend.generate("again") == "again"
