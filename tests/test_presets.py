"""Presets: what may be in one, what a save keeps, and what of one a model takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from scripted import ROOT, ScriptedBackend

from llamaforge import (
    BackendError,
    Config,
    ConfigError,
    LlamaForge,
    LlamaForgeError,
    ParameterError,
    Preset,
    PresetFit,
    SamplingParameters,
    backend_names,
    describe,
    get_backend,
    register_backend,
)
from llamaforge.backends.parameters import generate

CALM = """\
# For the evening.
temperature: 0.3   # low

stop: ["END", "# no comment"]
"""
SHIPPED = Config(ROOT / "configs").presets

Forge = Callable[..., LlamaForge]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A config whose preset `calm` has a file with comments."""
    write_preset(tmp_path, "calm", CALM)
    return Config(tmp_path)


def write_preset(folder: Path, name: str, text: str) -> Path:
    file = folder / "presets" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return file


def text_of(config: Config, name: str = "calm") -> str:
    return (config.presets_folder / f"{name}.yaml").read_text("utf-8")


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_preset_is_a_file_of_its_own_that_another_program_reads(tmp_path: Path) -> None:
    Config(tmp_path).save_preset("my own", {"temperature": 0.4, "seed": None, "stop": ["END"]})
    assert files_of(tmp_path) == ["presets/my own.yaml"]
    again = Config(tmp_path)
    assert text_of(again, "my own") == "temperature: 0.4\nstop:\n- END\n"
    assert again.presets["my own"].parameters == {"temperature": 0.4, "stop": ["END"]}


def test_a_save_keeps_comments_and_holds_the_new_values_alone(config: Config) -> None:
    preset = config.save_preset("calm", {"temperature": 0.1, "top_p": 0.5})
    assert text_of(config) == "# For the evening.\ntemperature: 0.1   # low\n\ntop_p: 0.5\n"
    assert preset.parameters == {"temperature": 0.1, "top_p": 0.5} == config.presets["calm"].parameters


def test_what_was_edited_by_hand_is_read_before_a_save(config: Config) -> None:
    write_preset(config.folder, "calm", "# mine\ntop_k: 3\n")
    config.save_preset("calm", {"top_k": 5})
    assert text_of(config) == "# mine\ntop_k: 5\n"


def test_a_preset_may_change_all_that_it_holds(config: Config) -> None:
    config.save_preset("calm", {"top_k": 5})
    config.save_preset("calm", {})
    assert text_of(config).startswith("# For the evening.") and config.presets["calm"].parameters == {}
    config.save_preset("calm", {"seed": 1})
    assert Config(config.folder).presets["calm"].parameters == {"seed": 1}


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "con", "x" * 65, "ends.", "a:b"])
def test_a_name_that_is_no_files_name_is_refused(config: Config, name: str) -> None:
    with pytest.raises(ConfigError, match="Choose another name"):
        config.save_preset(name, {"temperature": 0.4})
    assert files_of(config.folder) == ["presets/calm.yaml"]


REFUSED = [
    ("temperature", 9, "temperature must be a number from 0 to 2, found 9."),
    ("temprature", 0.4, "Unknown setting 'temprature'. Did you mean 'temperature'?"),
    ("n_ctx", 512, "n_ctx cannot be in a preset, which holds parameters of answers. Set it in the model's file."),
    ("trust_remote_code", True, "trust_remote_code cannot be in a preset"),
    ("api_base", "http://127.0.0.1/v1", "api_base cannot be in a preset"),
    ("api_key", "${OPENAI_API_KEY}", "api_key cannot be in a preset"),
]
NAMES = [name for name, _, _ in REFUSED]


@pytest.mark.parametrize(("name", "value", "words"), REFUSED, ids=NAMES)
def test_what_cannot_be_in_a_preset_is_not_saved(config: Config, name: str, value: object, words: str) -> None:
    with pytest.raises(ParameterError) as refused:
        config.save_preset("calm", {"top_p": 0.5, name: value})
    assert str(refused.value).startswith(words) and refused.value.name == name
    assert text_of(config) == CALM


@pytest.mark.parametrize(("name", "value", "words"), REFUSED, ids=NAMES)
def test_a_wrong_file_is_told_with_its_line_and_hides_no_other(
    tmp_path: Path, name: str, value: object, words: str
) -> None:
    write_preset(tmp_path, "calm", CALM)
    write_preset(tmp_path, "wrong", f"top_p: 0.5\n{name}: {str(value).lower()}\n")
    presets = Config(tmp_path).presets
    assert str(presets["wrong"].problem).startswith(f"presets/wrong.yaml line 2: {words}")
    assert presets["calm"].problem is None and list(presets) == ["calm", "wrong"]
    with pytest.raises(ConfigError, match="wrong.yaml line 2"):
        presets["wrong"].fit("echo")


def test_a_file_that_is_no_yaml_is_told_and_not_written_over(config: Config) -> None:
    write_preset(config.folder, "calm", "temperature: 'warm\n")
    config.reload()
    assert "presets/calm.yaml line 1, column 14: a quote is not closed" in str(config.presets["calm"].problem)
    with pytest.raises(ConfigError, match="a quote is not closed"):
        config.save_preset("calm", {"temperature": 0.4})
    assert text_of(config) == "temperature: 'warm\n"


def test_a_key_in_a_preset_is_never_told(tmp_path: Path) -> None:
    key = "sk-" + "a1b2" * 8
    write_preset(tmp_path, "typed", f"api_key: {key}\n")
    write_preset(tmp_path, "broken", f"api_key: {key}\ntemperature: [\n")
    problems = [preset.problem for preset in Config(tmp_path).presets.values()]
    assert len(problems) == 2 and all(problem and key not in str(problem) for problem in problems)
    assert key not in str(LlamaForgeError(f"it said {key}"))


def test_a_removed_preset_goes_to_the_trash(config: Config) -> None:
    config.remove_preset("calm")
    assert config.presets == {} == Config(config.folder).presets
    assert [path.read_text() for path in (config.presets_folder / ".trash").iterdir()] == [CALM]


def test_a_preset_that_is_not_there_is_named_with_the_nearest(config: Config) -> None:
    for act in (config.preset, config.remove_preset):
        with pytest.raises(ConfigError, match="Unknown preset 'clam'. Did you mean 'calm'?"):
            act("clam")
    config.remove_preset("calm")
    with pytest.raises(ConfigError, match="Unknown preset 'calm': none is saved."):
        config.preset("calm")


def test_each_backend_takes_what_it_knows_and_honours() -> None:
    preset = Preset("mixed", {"temperature": 0.3, "presence_penalty": 0.5, "tokens_per_second": 9.0, "max_tokens": 5})
    assert preset.fit("huggingface") == PresetFit(
        {"temperature": 0.3, "max_tokens": 5},
        {
            "presence_penalty": "transformers has no such penalty; use repeat_penalty.",
            "tokens_per_second": "huggingface has no such parameter.",
        },
    )
    assert preset.fit("echo").values == {"tokens_per_second": 9.0, "max_tokens": 5}
    with pytest.raises(BackendError, match="Unknown backend"):
        preset.fit("lama.cpp")


def test_what_is_out_of_a_backends_bounds_is_left_out_with_a_sentence() -> None:
    class Narrow(SamplingParameters):
        temperature: float | None = generate(None, "Randomness.", ge=0, le=1)
        depth: int | None = generate(3, "How deep.", ge=1, le=9)

    class NarrowBackend(ScriptedBackend):
        Parameters = Narrow

    register_backend("narrow", NarrowBackend)
    fit = Preset("hot", {"temperature": 1.5, "depth": 4}).fit("narrow")
    assert fit == PresetFit({"depth": 4}, {"temperature": "temperature must be a number from 0 to 1, found 1.5."})


def test_a_parameter_of_a_backend_of_ones_own_may_be_in_a_preset(config: Config) -> None:
    class Deep(SamplingParameters):
        depth: int | None = generate(3, "How deep.", ge=1, le=9)

    class DeepBackend(ScriptedBackend):
        Parameters = Deep

    register_backend("deep", DeepBackend)
    assert config.save_preset("deep", {"depth": 4}).fit("deep").values == {"depth": 4}
    with pytest.raises(ParameterError, match="depth must be a whole number from 1 to 9, found 10"):
        config.save_preset("deep", {"depth": 10})


def test_a_model_takes_no_more_than_its_window(forge: Forge, tiny_gguf: Path) -> None:
    made = forge(tiny=tiny_gguf)
    made.config.save_preset("long", {"temperature": 0.1, "max_tokens": 4096})
    assert made.fit_preset("long", "tiny").values == {"temperature": 0.1, "max_tokens": 4096}
    made.load_model("tiny", {"n_ctx": 512})
    fit = made.fit_preset("long", "tiny")
    assert fit == PresetFit({"temperature": 0.1}, {"max_tokens": "max_tokens may be at most 512 here, found 4096."})
    assert made.generate("hi", fit.values)


@pytest.mark.parametrize("backend", backend_names())
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_preset_is_valid_for_every_backend(name: str, backend: str) -> None:
    known = describe(get_backend(backend).Parameters)
    fit = SHIPPED[name].fit(backend)
    assert set(fit.left_out) == {key for key in SHIPPED[name].parameters if key not in known}


def test_each_shipped_preset_says_what_it_is_for_and_sets_what_the_others_set() -> None:
    assert list(SHIPPED) == ["balanced", "creative", "precise"]
    assert len({tuple(sorted(preset.parameters)) for preset in SHIPPED.values()}) == 1
    assert all(text_of(Config(ROOT / "configs"), name).startswith("# For ") for name in SHIPPED)
