"""What plugins do to an answer, and how they are registered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from plugin_kit import Broken, Shout, broken, name_in_settings, use
from scripted import ScriptedBackend, until
from tiny_gguf import DEFAULT_ANSWER

from llamaforge import LlamaForge, Message, Parameters, Plugin, PluginError, register_backend, register_plugin


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[tuple[LlamaForge, ScriptedBackend]]:
    """A loaded model that says what the test lets it say, with the plugins that the test registers."""
    made = ScriptedBackend()
    register_backend("scripted", type("One", (ScriptedBackend,), {"__new__": lambda cls: made, "__init__": _nothing}))
    forge = LlamaForge(tmp_path / "configs")
    forge.add_model("one", "-", "scripted")
    forge.load_model("one")
    yield forge, made
    forge.unload_model()


def _nothing(self: object) -> None:
    """It is made once."""


def test_a_plugin_changes_what_is_sent_and_what_is_said_and_has_a_note(echo: LlamaForge) -> None:
    use(echo, Shout, settings=", end: '?'")
    answer = echo.chat_stream([Message("user", "hi there")])
    assert "".join(answer) == "HI THERE?"
    assert answer.result is not None and answer.result.usage is not None
    assert [(note.plugin, note.text, note.failed) for note in answer.result.notes] == [
        ("mine", "It gets loud.", False)
    ]


def test_plugins_run_in_the_order_of_the_list(echo: LlamaForge) -> None:
    for name in "ab":
        register_plugin(name, type(name, (Shout,), {"__module__": name}))
    name_in_settings(echo, "{name: b, end: b}", "{name: a, end: a}")
    assert echo.chat([Message("user", "hi")]) == "HIBA"


def test_an_answer_still_comes_piece_by_piece(scripted: tuple[LlamaForge, ScriptedBackend]) -> None:
    forge, engine = scripted
    use(forge, Shout)
    answer = forge.chat_stream([Message("user", "hi")])
    pieces = iter(answer)
    for word in ("one ", "two "):  # the engine says the next one when this one has been read
        engine.say(word)
        assert next(pieces) == word.upper()
    engine.say(None)
    assert list(pieces) == [] and answer.text == "ONE TWO "


def test_llama_cpp_answers_through_plugins_and_its_counts_stay(
    load: Callable[..., LlamaForge], tiny_gguf: Path
) -> None:
    forge = load(tiny_gguf)
    plain = forge.chat_stream([Message("user", "Hello!")])
    assert "".join(plain) == DEFAULT_ANSWER
    use(forge, Shout)
    loud = forge.chat_stream([Message("user", "Hello")])
    assert "".join(loud) == DEFAULT_ANSWER.upper()
    assert plain.result is not None and loud.result is not None
    assert plain.result.usage is not None and loud.result.usage is not None
    assert loud.result.usage.prompt_tokens == plain.result.usage.prompt_tokens
    assert loud.result.usage.completion_tokens == plain.result.usage.completion_tokens


def test_the_prompt_that_is_shown_and_counted_is_the_one_that_is_sent(
    load: Callable[..., LlamaForge], tiny_gguf: Path
) -> None:
    forge = load(tiny_gguf)
    use(forge, Shout, settings=", end: ' END'")
    prompt = forge.prompt([Message("user", "Hello")])
    answer = forge.chat_stream([Message("user", "Hello")])
    answer.wait()
    assert prompt is not None and "Hello END" in prompt.text
    assert answer.result is not None and answer.result.usage is not None
    assert answer.result.usage.prompt_tokens == prompt.tokens


def test_a_text_that_is_sent_raw_is_no_plugins_business(echo: LlamaForge) -> None:
    use(echo, Shout)
    assert echo.generate("hi there", raw=True) == "hi there"


def test_the_models_file_turns_plugins_on_and_off_and_sets_them(echo: LlamaForge) -> None:
    use(echo, Shout)
    for said, answer in {False: "hi", True: "HI!"}.items():
        echo.add_model("echo", "echo", "echo", plugins={"mine": said})
        assert echo.chat([Message("user", "hi")]) == answer
    echo.add_model("echo", "echo", "echo", plugins={"mine": {"end": "."}})
    assert echo.chat([Message("user", "hi")]) == "HI."
    echo.config.save()
    echo.config.reload()
    assert echo.model("echo").plugins == {"mine": {"end": "."}}


def test_a_plugin_that_is_not_enabled_waits_for_a_model_that_names_it(echo: LlamaForge) -> None:
    register_plugin("mine", Shout)
    name_in_settings(echo, "{name: mine, enabled: false}")
    echo.add_model("echo", "echo", "echo")
    assert echo.chat([Message("user", "hi")]) == "hi"
    echo.add_model("echo", "echo", "echo", plugins={"mine": {}})
    assert echo.chat([Message("user", "hi")]) == "HI!"


def test_ending_early_ends_the_answer(echo: LlamaForge) -> None:
    use(echo, broken(after=lambda self, chunks: iter([next(chunks)])))
    answer = echo.chat_stream([Message("user", "one two three")])
    assert "".join(answer) == "one" and not answer.notes
    assert answer.result is not None and answer.result.finish_reason == "stop"


def test_a_plugin_may_write_the_answer_itself(echo: LlamaForge) -> None:
    use(echo, broken(after=lambda self, chunks: iter(["No."])))
    answer = echo.chat_stream([Message("user", "one two three")])
    assert "".join(answer) == "No." and not answer.notes


def test_no_thread_is_left_when_answers_have_ended(echo: LlamaForge) -> None:
    use(echo, Shout)
    before = threading.active_count()
    for _ in range(5):
        echo.chat([Message("user", "one two")])
    until(lambda: threading.active_count() == before)


def test_tokens_are_counted_before_an_answer_only(echo: LlamaForge) -> None:
    seen: list[Any] = []

    def before(self: Plugin, messages: list[Message]) -> list[Message]:
        seen.append(self.model.count(messages))
        seen.append(self.model)
        return messages

    use(echo, broken(before=before))
    echo.chat([Message("user", "one two")])
    count, model = seen
    assert count == 4 and model.name == "echo"
    with pytest.raises(PluginError, match="in before\\(\\) only"):
        model.count([Message("user", "one")])


def test_notes_are_cut_and_hold_no_key(echo: LlamaForge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-plugin-secret-123456")

    def before(self: Plugin, messages: list[Message]) -> list[Message]:
        for text in ("key sk-plugin-secret-123456", "x" * 1_000, 3, *("more" for _ in range(20))):
            self.note(text)  # type: ignore[arg-type]
        return messages

    use(echo, broken(before=before))
    answer = echo.chat_stream([Message("user", "one")])
    answer.wait()
    texts = [note.text for note in answer.notes]
    assert len(texts) <= 10 and texts[0] == "key [hidden]" and len(texts[1]) == 300


def test_thoughts_pass_through_a_plugin_as_thoughts(scripted: tuple[LlamaForge, ScriptedBackend]) -> None:
    forge, engine = scripted
    use(forge, Shout)
    engine.say("<think>so", "</think>", "yes", None)
    answer = forge.chat_stream([Message("user", "hi")])
    assert "".join(answer) == "YES" and answer.reasoning == "SO"


def test_a_plugin_of_another_version_of_the_interface_is_refused() -> None:
    for api in (0, 2):
        with pytest.raises(PluginError, match=f"'old' says api = {api}, and this LlamaForge has version 1"):
            register_plugin("old", type("Old", (Plugin,), {"api": api}))


@pytest.mark.parametrize(
    ("plugin", "sentence"),
    [
        (str, "must be a class that extends llamaforge.Plugin"),
        ("no_place", "must be given as 'module:Class'"),
        (broken(Settings=dict), "The Settings of plugin 'mine' must be a class that extends llamaforge.Parameters"),
        (broken(seconds="5"), "as `seconds` a number above 0"),
    ],
    ids=["no plugin", "no place", "settings", "seconds"],
)
def test_what_is_no_plugin_is_refused(plugin: Any, sentence: str) -> None:
    with pytest.raises(PluginError, match=sentence.replace("(", "\\(")):
        register_plugin("mine", plugin)


def test_a_setting_may_not_take_a_word_of_the_yaml() -> None:
    class Settings(Parameters):
        enabled: bool = True

    with pytest.raises(PluginError, match="may have no setting 'enabled'"):
        register_plugin("mine", broken(Settings=Settings))


def test_a_name_that_is_taken_is_refused_unless_it_is_the_same_plugin() -> None:
    register_plugin("mine", Shout)
    register_plugin("mine", Shout)
    with pytest.raises(PluginError, match="already registered"):
        register_plugin("mine", Broken)
    register_plugin("mine", Broken, overwrite=True)
