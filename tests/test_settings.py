"""Where a parameter's value comes from, and which of them reach the backend."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedBackend

from llamaforge import LlamaForge, ModelError, ParameterError, SamplingParameters, Setting, register_backend
from llamaforge.backends.parameters import generate

Forge = Callable[..., LlamaForge]


def settings_of(forge: LlamaForge, *names: str, call: Mapping[str, Any] | None = None) -> list[Setting]:
    settings = forge.settings_of("a", call)
    return [settings[name] for name in names]


def test_every_value_tells_where_it_comes_from(forge: Forge, tiny_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    (tmp_path / "configs" / "settings.yaml").write_text("parameters:\n  top_k: 10\n  top_p: 0.5\n  seed: 1\n")
    (tmp_path / "configs" / "models" / "a.yaml").write_text(
        f"backend: llama.cpp\npath: {tiny_gguf}\nparameters:\n  temperature: 0.1\n  top_p: 0.6\n  seed: 2\n"
    )
    names = ("min_p", "n_ctx", "top_k", "top_p", "temperature", "seed")
    assert settings_of(forge(), *names, call={"seed": 3, "temperature": None}) == [
        Setting(0.05, "the engine's default", is_set=False),
        Setting(2048, "the model itself", is_set=False),
        Setting(10, "settings.yaml line 2"),
        Setting(0.6, "a.yaml line 5"),
        Setting(0.1, "a.yaml line 4"),
        Setting(3, "this chat"),
    ]


def test_every_value_tells_what_it_stands_over(forge: Forge, tiny_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "settings.yaml").write_text("parameters:\n  n_ctx: 512\n  top_k:\n")
    made = forge(a=tiny_gguf)
    made.add_model("a", str(tiny_gguf), "llama.cpp", {"n_ctx": 256})
    made.config.save()
    told: list[str] = []
    setting: Setting | None = made.settings_of("a", {"n_ctx": 1024})["n_ctx"]
    while setting is not None:
        told.append(f"{setting.value} by {setting.origin}")
        setting = setting.over
    assert told == [
        "1024 by this chat",
        "256 by a.yaml line 4",
        "512 by settings.yaml line 2",
        "2048 by the model itself",
        "None by the engine's default",
    ]
    assert not made.settings_of("a")["top_k"].is_set


def test_a_value_that_nobody_typed_tells_what_did(forge: Forge, tiny_gguf: Path) -> None:
    settings = forge(a=tiny_gguf).settings_of("a", {"top_k": 3, "top_p": 0.5}, {"top_k": "preset calm", "seed": "x"})
    assert [settings[name].origin for name in ("top_k", "top_p")] == ["preset calm", "this chat"]
    assert not settings["seed"].is_set


def test_a_value_that_stands_in_no_file_yet_names_none(forge: Forge, tiny_gguf: Path) -> None:
    made = forge()
    for value in (0.1, 0.2):
        made.add_model("a", str(tiny_gguf), "llama.cpp", {"temperature": value})
        assert settings_of(made, "temperature")[0].origin == "add_model()"
        made.config.save()
        assert settings_of(made, "temperature")[0].origin == "a.yaml line 4"


def test_settings_are_told_of_a_model_whose_file_is_gone(forge: Forge, tmp_path: Path) -> None:
    gone = forge(a=tmp_path / "gone.gguf")
    assert settings_of(gone, "temperature") == [Setting(0.8, "the engine's default", is_set=False)]


def test_only_shared_parameters_that_a_backend_knows_reach_it(forge: Forge, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "settings.yaml").write_text("parameters:\n  n_ctx: 512\n  max_tokens: 1\n")
    shared = forge()
    shared.add_model("a", "x", "echo")
    assert "n_ctx" not in shared.settings_of("a")
    shared.load_model("a")
    assert (shared.generate("one two"), shared.generate("one two", {"max_tokens": 2})) == ("one", "one two")


def test_what_was_given_for_a_load_holds_for_its_answers_and_no_longer(forge: Forge) -> None:
    loaded = forge()
    loaded.add_model("a", "x", "echo", {"max_tokens": 2})
    loaded.load_model("a", {"max_tokens": 1})
    said = [loaded.generate("one two three"), loaded.generate("one two three", {"max_tokens": 3})]
    loaded.load_model("a", {"max_tokens": None})
    assert [*said, loaded.generate("one two three")] == ["one", "one two three", "one two"]
    assert loaded.model("a").parameters == {"max_tokens": 2}


def test_what_would_load_differently_by_now_is_known(forge: Forge, tmp_path: Path) -> None:
    made = forge()
    made.add_model("echo", "here", "echo")
    made.config.save()
    file = tmp_path / "configs" / "models" / "echo.yaml"
    made.load_model("echo")
    assert not made.settings_changed
    file.write_text("backend: echo\npath: here\nparameters:\n  max_tokens: 3\n", "utf-8")
    made.config.reload()
    assert not made.settings_changed, "a parameter of the next answer needs no load"
    file.write_text("backend: echo\npath: elsewhere\n", "utf-8")
    made.config.reload()
    assert made.settings_changed
    made.load_model("echo")
    assert not made.settings_changed


def test_a_load_parameter_that_was_changed_needs_a_load(forge: Forge, tiny_gguf: Path) -> None:
    made = forge(model=tiny_gguf)
    made.config.save()
    made.load_model("model", {"n_ctx": 512})
    made.config.save_parameters("model", {"temperature": 0.1, "n_ctx": 512})
    assert not made.settings_changed
    made.config.save_parameters("model", {"n_batch": 64})
    assert made.settings_changed
    made.unload_model()
    assert not made.settings_changed


def test_a_models_card_tells_of_it_without_loading(forge: Forge, tiny_gguf: Path) -> None:
    card = forge(tiny=tiny_gguf).card("tiny")
    assert (card.facts["Name"], card.facts["Layers"]) == ("Tiny test model", "2")
    cores = os.cpu_count()
    assert card.limits == {"n_gpu_layers": 2, "n_ctx": 2048, "n_threads": cores, "n_threads_batch": cores}


class Tuned(SamplingParameters):
    depth: int | None = generate(3, "How deep.", ge=1, le=9)


def test_a_backends_own_schema_is_the_one_that_counts(forge: Forge) -> None:
    class Own(ScriptedBackend):
        Parameters = Tuned

        def generate_stream(self, prompt: str, parameters: Mapping[str, Any] | None = None) -> Iterator[str]:
            yield repr(parameters)

    register_backend("own", Own)
    loaded = forge()
    loaded.add_model("a", "x", "own", {"depth": 4})
    loaded.load_model("a")
    assert loaded.generate("hi", {"temperature": 1}) == "{'depth': 4, 'temperature': 1}"
    with pytest.raises(ParameterError, match="depth must be a whole number from 1 to 9, found 10"):
        loaded.generate("hi", {"depth": 10})
    assert settings_of(loaded, "depth")[0].value == 4


def test_an_error_of_the_model_is_a_model_error(forge: Forge, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        forge(a=tmp_path / "gone.gguf").check_model("a")
