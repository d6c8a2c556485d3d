"""Saving the config folder: what an edit keeps, what is never lost, and what two windows do to each other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llamaforge import CannotSplice, Config, ConfigConflict, ConfigError, LlamaForgeError, Model, ParameterError

COMMENTED = """\
# Our favourite.
backend: llama.cpp  # in C++
path: models/a.gguf
licence: MIT

parameters:
  # warm
  temperature: 0.7   # very
  n_ctx: 4096
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A config whose model `a` has a file with comments."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.yaml").write_text(COMMENTED)
    return Config(tmp_path)


def text_of(config: Config, name: str = "a") -> str:
    return config.file_of(name).read_text("utf-8")


def model(**parameters: object) -> Model:
    return Model("a", "llama.cpp", "models/a.gguf", parameters=dict(parameters))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def trash_of(config: Config) -> list[str]:
    return sorted(path.read_text() for path in (config.models_folder / ".trash").iterdir())


def test_a_new_model_becomes_a_file_of_its_own(tmp_path: Path) -> None:
    config = Config(tmp_path / "configs")
    config.add(Model("new one", "llama.cpp", "/m/x.gguf", "Small: #1", {"n_ctx": 512, "temperature": None, "seed": 0}))
    config.save()
    assert text_of(config, "new one") == (
        "backend: llama.cpp\npath: /m/x.gguf\ndescription: 'Small: #1'\nparameters:\n  n_ctx: 512\n  seed: 0\n"
    )
    assert list(tree(tmp_path)) == ["configs/models/new one.yaml"]


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    parameters = {"stop": ["\nuser:", "a: b", "#"], "temperature": 0.1, "f16_kv": False, "n_ctx": 512, "seed": 1}
    config = Config(tmp_path)
    config.add(Model("a", "llama.cpp", "C:\\models\\ä b.gguf", "many\nlines: yes\n", parameters))
    config.save()
    read = Config(tmp_path).models["a"]
    assert (read.problem, read.path, read.description) == (None, "C:\\models\\ä b.gguf", "many\nlines: yes\n")
    assert read.parameters == parameters


def test_comments_order_and_keys_of_ones_own_survive_a_save(config: Config) -> None:
    config.add(model(temperature=0.2, n_ctx=4096, seed=7))
    config.save()
    assert text_of(config) == COMMENTED.replace("0.7", "0.2") + "  seed: 7\n"


def test_a_script_that_runs_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    for _ in range(3):
        config = Config(tmp_path)
        config.add(model(temperature=0.7))
        config.save()
    assert text_of(config) == "backend: llama.cpp\npath: models/a.gguf\nparameters:\n  temperature: 0.7\n"


def test_a_parameter_that_the_new_model_lacks_leaves_the_file(config: Config) -> None:
    config.add(model(n_ctx=4096))
    config.save()
    assert Config(config.folder).models["a"].parameters == {"n_ctx": 4096}
    assert "licence: MIT" in text_of(config)


def test_a_description_that_the_new_model_lacks_leaves_the_file(tmp_path: Path) -> None:
    config = Config(tmp_path)
    for description in ("Old words.", ""):
        config.add(Model("a", "echo", "x", description))
        config.save()
    assert Config(tmp_path).models["a"].description == ""


def test_saving_without_changes_writes_nothing(config: Config) -> None:
    before = tree(config.folder)
    config.save()
    assert tree(config.folder) == before


def test_only_what_changed_is_written(config: Config) -> None:
    config.add(Model("b", "echo", "x"))
    config.file_of("a").write_text("edited elsewhere")
    config.save()
    assert text_of(config) == "edited elsewhere"


def test_a_removed_model_goes_to_the_trash_at_the_next_save(config: Config) -> None:
    config.remove("a")
    config.reload()
    assert config.models == {} and text_of(config) == COMMENTED
    config.save()
    assert trash_of(config) == [COMMENTED]
    assert Config(config.folder).models == {}


def test_every_removed_file_is_kept_though_they_had_one_name(config: Config) -> None:
    for number in range(3):
        config.add(Model("a", "echo", f"x{number}"))
        config.save()
        config.remove("a")
        config.save()
    assert len(trash_of(config)) == 3


def test_removing_what_is_gone_already_is_done(config: Config) -> None:
    config.remove("a")
    config.file_of("a").unlink()
    config.save()
    assert config.models == {}


def test_a_model_removed_and_added_anew_is_a_new_file(config: Config) -> None:
    config.remove("a")
    config.add(model(seed=1))
    config.save()
    assert text_of(config) == "backend: llama.cpp\npath: models/a.gguf\nparameters:\n  seed: 1\n"
    assert trash_of(config) == [COMMENTED]


def test_a_model_that_was_never_saved_is_removed_without_a_trace(config: Config) -> None:
    config.add(Model("b", "echo", "x"))
    config.remove("b")
    config.save()
    assert list(tree(config.folder)) == ["models/a.yaml"]


def test_a_model_typed_anew_after_its_removal_is_not_thrown_away(config: Config) -> None:
    config.remove("a")
    config.save_text("a", COMMENTED + "# mine\n", digest=None, overwrite=True)
    config.save()
    assert text_of(config).endswith("# mine\n")


def test_a_file_changed_meanwhile_is_not_overwritten(config: Config) -> None:
    config.add(model(seed=1))
    config.file_of("a").write_text("theirs: 1\n")
    with pytest.raises(ConfigConflict, match="models/a.yaml: This file was changed in another window"):
        config.save()
    assert text_of(config) == "theirs: 1\n"
    config.save(overwrite=True)
    assert "seed: 1" in text_of(config)


def test_two_windows_that_make_the_same_model_do_not_overwrite_each_other(tmp_path: Path) -> None:
    first, second = Config(tmp_path), Config(tmp_path)
    first.add(Model("a", "echo", "first"))
    second.add(Model("a", "echo", "second"))
    first.save()
    with pytest.raises(ConfigConflict, match="This file was created in another window"):
        second.save()
    assert Config(tmp_path).models["a"].path == "first"


def test_an_edit_that_would_lose_comments_is_refused(config: Config) -> None:
    config.file_of("a").write_text("backend: echo\npath: x\nparameters: {  # small\n  max_tokens: 5 }\n")
    config.reload()
    config.add(Model("a", "echo", "x", parameters={"max_tokens": 5, "tokens_per_second": 9}))
    with pytest.raises(CannotSplice, match="Save as copy"):
        config.save()
    assert "# small" in text_of(config)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "configs").write_text("a file")
    config = Config(tmp_path / "configs")
    config.add(Model("a", "echo", "x"))
    with pytest.raises(ConfigError, match="models/a.yaml: Could not save: "):
        config.save()


def test_text_as_typed_is_saved_and_is_the_model_from_then_on(config: Config) -> None:
    _, digest = config.raw("a")
    model = config.save_text("a", COMMENTED.replace("0.7", "0.1"), digest=digest)
    assert model.parameters["temperature"] == 0.1 and config.models["a"] is model
    assert text_of(config) == COMMENTED.replace("0.7", "0.1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (COMMENTED.replace("0.7", "7"), "models/a.yaml line 8: temperature must be a number from 0 to 2, found 7."),
        (COMMENTED.replace("llama.cpp", "lama.cpp"), "models/a.yaml line 2: Unknown backend 'lama.cpp'."),
        ("backend: 'echo", "models/a.yaml line 1, column 10: a quote is not closed."),
        ("", "'backend' is missing"),
        ("a: \ud800", "models/a.yaml"),
    ],
    ids=["value", "backend", "syntax", "empty", "surrogate"],
)
def test_text_that_is_no_model_is_refused_and_nothing_written(config: Config, text: str, words: str) -> None:
    before = tree(config.folder)
    with pytest.raises(LlamaForgeError) as caught:
        config.save_text("a", text, digest=config.raw("a")[1])
    assert words in str(caught.value)
    assert tree(config.folder) == before and config.models["a"].problem is None


def test_text_typed_over_an_older_file_is_a_conflict(config: Config) -> None:
    text, digest = config.raw("a")
    config.save_text("a", text.replace("0.7", "0.1"), digest=digest)
    with pytest.raises(ConfigConflict):
        config.save_text("a", text.replace("0.7", "0.2"), digest=digest)
    assert "0.1" in text_of(config)
    config.save_text("a", text.replace("0.7", "0.2"), digest=digest, overwrite=True)
    assert "0.2" in text_of(config)


def test_a_broken_file_can_be_mended_as_text(config: Config) -> None:
    config.file_of("a").write_text("backend: 'echo\n")
    config.reload()
    text, digest = config.raw("a")
    assert text == "backend: 'echo\n"
    assert config.save_text("a", "backend: echo\npath: x\n", digest=digest).problem is None


def test_the_text_of_a_model_that_was_never_saved_is_what_would_be_saved(config: Config) -> None:
    config.add(Model("b", "echo", "x", parameters={"max_tokens": 5}))
    assert config.raw("b") == ("backend: echo\npath: x\nparameters:\n  max_tokens: 5\n", None)


def test_saving_parameters_changes_those_and_nothing_else(config: Config) -> None:
    model = config.save_parameters("a", {"temperature": 0.3, "n_ctx": None, "top_k": 20, "seed": None})
    assert text_of(config) == COMMENTED.replace("0.7", "0.3").replace("n_ctx: 4096", "top_k: 20")
    assert model.parameters == {"temperature": 0.3, "top_k": 20} == config.models["a"].parameters


def test_saving_parameters_keeps_what_was_edited_by_hand_meanwhile(config: Config) -> None:
    config.file_of("a").write_text(COMMENTED.replace("4096", "512"))
    model = config.save_parameters("a", {"temperature": 0.3})
    assert model.parameters == {"temperature": 0.3, "n_ctx": 512}


def test_a_wrong_parameter_is_not_saved(config: Config) -> None:
    with pytest.raises(LlamaForgeError, match="line 8: temperature must be a number from 0 to 2, found 9"):
        config.save_parameters("a", {"temperature": 9})
    assert text_of(config) == COMMENTED


@pytest.mark.parametrize("text", ["backend: 'echo\n", "backend: echo\npath: x\nparameters: 5\n"])
def test_parameters_are_not_saved_into_a_broken_file(config: Config, text: str) -> None:
    config.file_of("a").write_text(text)
    with pytest.raises(ConfigError, match="models/a.yaml line"):
        config.save_parameters("a", {"temperature": 0.3})
    assert text_of(config) == text


def test_a_model_over_a_broken_file_is_not_saved_silently(config: Config) -> None:
    config.file_of("a").write_text("backend: 'echo\n")
    config.reload()
    config.add(model(seed=1))
    with pytest.raises(ConfigConflict):
        config.save()
    assert text_of(config) == "backend: 'echo\n"


def test_a_copy_gets_a_name_that_nobody_has(config: Config) -> None:
    names = []
    for _ in range(3):
        names.append(config.free_name("a"))
        config.add(Model(names[-1], "echo", "x"))
    assert names == ["a copy", "a copy 2", "a copy 3"]
    assert len(config.free_name("x" * 64)) <= 64


def test_a_refused_model_leaves_the_old_one(config: Config) -> None:
    with pytest.raises(ParameterError):
        config.add(model(temperature=9))
    assert config.models["a"].parameters["temperature"] == 0.7


def test_what_a_killed_save_left_is_removed_an_hour_later(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    old, young = (tmp_path / "models" / f".a.yaml.tmp-{age}" for age in ("old", "young"))
    for left in (old, young):
        left.write_text("half a file")
    os.utime(old, (0, 0))
    Config(tmp_path)
    assert (old.exists(), young.exists()) == (False, True)
