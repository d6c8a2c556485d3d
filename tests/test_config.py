"""The config folder: what is read from it, and what is said of files that are wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedBackend

from llamaforge import (
    BackendError,
    Config,
    ConfigError,
    LlamaForge,
    Model,
    ParameterError,
    SamplingParameters,
    register_backend,
)
from llamaforge.backends.parameters import generate

GOOD = "backend: llama.cpp\npath: models/a.gguf\nparameters:\n  n_ctx: 4096\n"
NAME_RULE = (
    "Names may use letters, numbers, space, . _ - (1 to 64 characters, the first a letter or a number). "
    "Choose another name."
)
BAD_NAMES = [
    *("../../x", "/etc/x", "C:\\x", "..", ".", ".hidden", "con", "CON", "nul.txt", "lpt1", "a/b", "a\nb", "a\0b", ""),
    *("   ", " a", "a ", "a.", "_a", "-a", "a" * 65, "<img src=x>", "a:b", "a*", "a\x1b[1m", "a\ud800"),
]
GOOD_NAMES = ["a", "llama-2-7b", "Qwen3 8B Q4_K_M", "Модель", "日本語", "a.b", "7", "console", "a" * 64]

Write = Callable[..., Config]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write files into a config folder and read it: models by name, settings.yaml by `settings`."""

    def write_files(settings: str | None = None, **models: str) -> Config:
        folder = tmp_path / "project" / "configs"
        (folder / "models").mkdir(parents=True, exist_ok=True)
        if settings is not None:
            (folder / "settings.yaml").write_text(settings)
        for name, text in models.items():
            (folder / "models" / f"{name}.yaml").write_text(text)
        return Config(folder)

    return write_files


def problem_of(config: Config, name: str = "a") -> str:
    problem = config.models[name].problem
    assert problem is not None
    return str(problem)


def test_a_models_file_is_read_by_its_name(write: Write) -> None:
    model = write(a=GOOD + "description: The small one\n").models["a"]
    assert (model.name, model.backend, model.path, model.description) == (
        "a",
        "llama.cpp",
        "models/a.gguf",
        "The small one",
    )
    assert (model.parameters, model.problem) == ({"n_ctx": 4096}, None)


@pytest.mark.parametrize("make_it", [False, True], ids=["missing", "empty"])
def test_a_folder_that_is_missing_or_empty_is_a_config_without_models(tmp_path: Path, make_it: bool) -> None:
    folder = tmp_path / "configs"
    if make_it:
        folder.mkdir()
    config = Config(folder)
    assert (config.models, config.settings.parameters, config.settings.problem) == ({}, {}, None)
    assert folder.exists() == make_it


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("backend: llama.cpp\npath: x\ndescription: 'open", "models/a.yaml line 3, column 14: a quote is not closed"),
        ("backend: echo\nparameters:\n\tn_ctx: 1\n", "models/a.yaml line 3, column 1: a tab is used for indentation"),
        (
            "backend: lama.cpp\npath: x\n",
            "models/a.yaml line 1: Unknown backend 'lama.cpp'. Did you mean 'llama.cpp'?",
        ),
        ("path: x\n", "models/a.yaml: 'backend' is missing. Add a line: backend: llama.cpp"),
        ("backend: llama.cpp\n", "models/a.yaml: 'path' is missing. Add a line: path: models/file.gguf"),
        ("backend: llama.cpp\npath:\n", "models/a.yaml: 'path' is missing. Add a line: path: models/file.gguf"),
        ("backend: llama.cpp\npath: 5\n", "models/a.yaml line 2: path must be a text, found 5."),
        ("backend: [a]\npath: x\n", "models/a.yaml line 1: backend must be a text, found ['a']."),
        ("backend: echo\npath: ' '\n", "models/a.yaml line 2: path must be a text, found ' '."),
        (
            GOOD + "  temprature: 1\n",
            "models/a.yaml line 5: Unknown setting 'temprature'. Did you mean 'temperature'?",
        ),
        (
            GOOD.replace("4096", '"big"'),
            "models/a.yaml line 4: n_ctx must be a whole number from 256 to 16,777,216, found 'big'.",
        ),
        (GOOD + "  top_p: .nan\n", "models/a.yaml line 5: top_p must be a number from 0 to 1, found nan."),
        ("backend: echo\npath: x\nparameters: 5\n", "models/a.yaml line 3: parameters must be lines of 'name: value'"),
        ("backend: echo\npath: x\nparameters: [a]\n", "models/a.yaml line 3: parameters must be lines of"),
        ("backend: echo\npath: x\nparamters:\n", "models/a.yaml line 3: Unknown setting 'paramters'. Did you mean"),
        ("- a\n- b\n", "models/a.yaml line 1, column 1: the file must hold 'name: value' lines."),
        ("a: !!python/object/apply:os.system [x]", "models/a.yaml line 1, column 4: Tags like '!!python/…' are not"),
        ("a: " + "[" * 1000, "nested too deeply (limit 32)."),
        (
            "backend: echo\npath: x\nguests: maybe\n",
            "models/a.yaml line 3: guests must be true or false, found 'maybe'.",
        ),
        ("a: &x [1]\nb: *x\n", "models/a.yaml line 1, column 4: Anchors and aliases are not allowed"),
        ("? [a]\n: b\n", "models/a.yaml line 1"),
        ("1: x\n", "models/a.yaml line 1, column 1: a key must be a text. Put it in quotes."),
        ("x" * 300_000, "models/a.yaml: the file is 293 KB; the limit is 256 KB. Is it the right file?"),
        ("", "models/a.yaml: 'backend' is missing. Add a line: backend: llama.cpp"),
    ],
    ids=lambda value: repr(value)[:32],
)
def test_a_wrong_file_is_listed_with_its_place_and_what_to_do(write: Write, text: str, expected: str) -> None:
    config = write(a=text, b=GOOD)
    assert expected in problem_of(config)
    assert config.models["b"].problem is None


def test_every_wrong_parameter_of_a_file_is_named_at_the_line_of_the_first(write: Write) -> None:
    message = problem_of(write(a=GOOD + "  temperature: 9\n  sead: 1\n"))
    assert message.startswith("models/a.yaml line ")
    assert "temperature must be a number from 0 to 2, found 9." in message and "Unknown setting 'sead'" in message


@pytest.mark.parametrize("text", [GOOD.replace("\n", "\r\n"), GOOD.rstrip("\n"), "\ufeff" + GOOD, "# note\n" + GOOD])
def test_line_ends_and_comments_do_not_matter(write: Write, text: str) -> None:
    model = write(a=text).models["a"]
    assert (model.problem, model.parameters) == (None, {"n_ctx": 4096})


def test_a_key_of_ones_own_is_allowed(write: Write) -> None:
    assert write(a=GOOD + "licence: MIT\nmy_notes: [1, 2]\n").models["a"].problem is None


@pytest.mark.parametrize("text", ["description: ''\n", "description:\n", "parameters:\n", "parameters: {}\n"])
def test_what_is_optional_may_be_empty(write: Write, text: str) -> None:
    model = write(a="backend: echo\npath: x\n" + text).models["a"]
    assert (model.problem, model.description, model.parameters) == (None, "", {})


def test_a_parameter_without_a_value_is_unset(write: Write) -> None:
    assert write(a=GOOD + "  temperature:\n  seed: null\n").models["a"].parameters == {"n_ctx": 4096}


def test_the_questions_that_an_empty_chat_offers_are_read(write: Write) -> None:
    assert write(a="examples: ['Why?', 'How?']\n" + GOOD).models["a"].examples == ["Why?", "How?"]
    for wrong in ("Why?", "[1]", "['Why?', ' ']"):
        config = write(b=f"examples: {wrong}\n" + GOOD)
        assert "examples must be a list of questions, [one, two], found" in problem_of(config, "b")


def test_questions_set_in_code_are_saved(tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("a", "x", "echo", examples=["Why?"])
    forge.config.save()
    assert Config(tmp_path).models["a"].examples == ["Why?"]


def test_a_file_that_is_no_file_is_listed(write: Write) -> None:
    config = write(b=GOOD)
    (config.models_folder / "a.yaml").mkdir()
    (config.models_folder / "c.yaml").symlink_to("/dev/zero")
    config.reload()
    assert "this is a folder or a device" in problem_of(config, "a")
    assert "this is a folder or a device" in problem_of(config, "c")
    assert config.models["b"].problem is None


@pytest.mark.parametrize("name", ["con", "a b ", "a;b", "<b>"])
def test_a_hand_made_file_of_a_bad_name_is_listed_and_not_loadable(write: Write, name: str) -> None:
    assert problem_of(write(**{name: GOOD}), name) == NAME_RULE


def test_other_files_in_the_folder_are_no_models(write: Write) -> None:
    config = write(a=GOOD)
    for name in (".a.yaml.tmp-1", ".hidden.yaml", "notes.txt", "b.yaml.bak"):
        (config.models_folder / name).write_text(GOOD)
    config.reload()
    assert list(config.models) == ["a"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_name_that_cannot_be_a_files_name_is_refused(tmp_path: Path, name: str) -> None:
    config = Config(tmp_path / "configs")
    for change in (lambda: config.add(Model(name, "echo", "x")), lambda: config.save_text(name, GOOD, digest=None)):
        with pytest.raises(ConfigError) as caught:
            change()
        assert str(caught.value) == NAME_RULE
    config.save()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_good_name_is_the_files_name(tmp_path: Path, name: str) -> None:
    config = Config(tmp_path)
    config.add(Model(name, "echo", "x"))
    config.save()
    assert [path.name for path in (tmp_path / "models").iterdir()] == [f"{name}.yaml"]
    assert Config(tmp_path).models[name].problem is None


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (Model("a", "lama.cpp", "x"), BackendError, "Unknown backend 'lama.cpp'. Did you mean 'llama.cpp'?"),
        (Model("a", "echo", "x", parameters={"max_tokns": 1}), ParameterError, "Did you mean 'max_tokens'?"),
        (Model("a", "echo", "x", parameters={"max_tokens": 0}), ParameterError, "max_tokens must be a whole number"),
    ],
    ids=["backend", "name", "value"],
)
def test_a_wrong_model_is_not_added(tmp_path: Path, model: Model, error: type[Exception], words: str) -> None:
    config = Config(tmp_path)
    with pytest.raises(error) as caught:
        config.add(model)
    assert words in str(caught.value) and config.models == {}


def test_settings_are_read(write: Write) -> None:
    settings = write("default_model: a\nmodels_dir: models\nparameters:\n  temperature: 0.5\n  n_ctx: 512\n").settings
    assert (settings.default_model, settings.models_dir) == ("a", "models")
    assert (settings.parameters, settings.problem) == ({"temperature": 0.5, "n_ctx": 512}, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("default_model: 'a", "configs/settings.yaml line 1, column 16: a quote is not closed."),
        ("default_model: [a]\n", "configs/settings.yaml line 1: default_model must be a text, found ['a']."),
        ("default_modell: a\n", "configs/settings.yaml line 1: Unknown setting 'default_modell'. Did you mean"),
        ("parameters: 5\n", "configs/settings.yaml line 1: parameters must be lines of 'name: value'"),
        (
            "\nparameters:\n  temprature: 1\n",
            "configs/settings.yaml line 3: Unknown setting 'temprature'. Did you mean",
        ),
        ("parameters:\n  temperature: 9\n", "configs/settings.yaml line 2: temperature must be a number from 0 to 2"),
        ("parameters:\n  n_ctx: -1\n", "configs/settings.yaml line 2: n_ctx must be a whole number from 256"),
    ],
    ids=["syntax", "type", "key", "shape", "parameter", "value", "load parameter"],
)
def test_wrong_settings_are_a_problem_and_the_models_are_there(write: Write, text: str, expected: str) -> None:
    config = write(text, a=GOOD)
    assert expected in str(config.settings.problem)
    assert config.settings.parameters == {} and config.models["a"].problem is None


def test_a_shared_parameter_must_be_right_for_every_backend_that_knows_it(write: Write) -> None:
    class Careful(SamplingParameters):
        temperature: float | None = generate(0.5, "Randomness.", ge=0, le=1)

    register_backend("careful", type("CarefulBackend", (ScriptedBackend,), {"Parameters": Careful}))
    problem = write("parameters:\n  temperature: 1.5\n").settings.problem
    assert "line 2: temperature must be a number from 0 to 1, found 1.5." in str(problem)


def test_a_backend_that_cannot_be_imported_is_told_where_a_model_names_it(write: Write) -> None:
    register_backend("broken", "not_there_at_all:Backend")
    config = write("parameters:\n  temperature: 1\n", a=GOOD.replace("llama.cpp", "broken"), b=GOOD)
    assert "models/a.yaml line 1: Backend 'broken' cannot be imported" in problem_of(config)
    assert config.settings.problem is None and config.models["b"].problem is None


@pytest.mark.parametrize(
    ("variables", "here", "expected"),
    [
        ({"LLAMAFORGE_CONFIG": "chosen"}, True, "chosen"),
        ({}, True, "configs"),
        ({}, False, "user-config/llamaforge"),
        ({"LLAMAFORGE_CONFIG": ""}, False, "user-config/llamaforge"),
    ],
    ids=["variable", "here", "user", "empty variable"],
)
def test_the_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], here: bool, expected: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value) if value else "")
    monkeypatch.chdir(tmp_path)
    if here:
        (tmp_path / "configs").mkdir()
    assert Config().folder == tmp_path / expected


def test_the_folder_stays_the_same_when_the_program_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = Config("configs")
    config.add(Model("a", "echo", "models/a.gguf"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    config.save()
    assert (tmp_path / "configs" / "models" / "a.yaml").is_file()
    assert config.resolve("models/a.gguf") == tmp_path / "models" / "a.gguf"


def test_a_relative_path_starts_at_the_config_folders_parent(write: Write, tmp_path: Path) -> None:
    config = write(a=GOOD)
    assert config.model_path(config.models["a"]) == str(tmp_path / "project" / "models" / "a.gguf")
    assert config.resolve(str(tmp_path / "x.gguf")) == tmp_path / "x.gguf"


def test_a_path_at_home_is_resolved(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert write().resolve("~/x.gguf") == tmp_path / "x.gguf"


def test_what_is_no_file_here_reaches_the_backend_as_it_stands(write: Write) -> None:
    assert write().model_path(Model("a", "huggingface", "org/model")) == "org/model"


@pytest.mark.parametrize("path", ["~nobody-here/x.gguf", "a\0b.gguf", "x" * 300 + ".gguf", "loop.gguf"], ids=ascii)
def test_an_impossible_path_is_left_to_the_backend_to_refuse(write: Write, path: str) -> None:
    config = write("models_dir: .\n")
    config.add(Model("a", "llama.cpp", path))
    os.symlink("loop.gguf", config.folder.parent / "loop.gguf")
    assert config.model_path(config.models["a"]).endswith(path)
    assert [file.name for file in config.found_files()] in ([], ["loop.gguf"])


def test_gguf_files_of_the_models_folder_are_found_unless_registered(write: Write) -> None:
    config = write("models_dir: models\n", a=GOOD)
    folder = config.folder.parent / "models"
    (folder / "more").mkdir(parents=True)
    for name in ("a.gguf", "b.gguf", "more/c.gguf", "notes.txt"):
        (folder / name).touch()
    (folder / "link.gguf").symlink_to("a.gguf")
    assert config.found_files() == [folder / "b.gguf", folder / "more" / "c.gguf"]


@pytest.mark.parametrize("settings", ["", "models_dir: gone\n", "models_dir: configs/settings.yaml\n"])
def test_a_models_folder_that_is_none_holds_nothing(write: Write, settings: str) -> None:
    assert write(settings).found_files() == []


def parameters_of(config: Config) -> Mapping[str, Any]:
    return {name: model.parameters for name, model in config.models.items()}


def test_reload_reads_what_was_edited_by_hand_and_keeps_what_is_not_saved(write: Write) -> None:
    config = write(a=GOOD)
    config.add(Model("new", "echo", "x"))
    write(a=GOOD.replace("4096", "512"), b=GOOD)
    assert parameters_of(config) == {"a": {"n_ctx": 4096}, "new": {}}
    config.reload()
    assert parameters_of(config) == {"a": {"n_ctx": 512}, "b": {"n_ctx": 4096}, "new": {}}
