"""Everything that is wrong with a config folder is found, at its file and line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from llamaforge import LlamaForge, config_check, register_backend
from llamaforge.backends.base import BaseBackend

Find = Callable[[Mapping[str, str]], list[tuple[str, int | None, str]]]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """Write files into a config folder and return what is found: file, line, text."""

    def write_and_find(files: Mapping[str, str]) -> list[tuple[str, int | None, str]]:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text, "utf-8")
        found = config_check.findings(LlamaForge(tmp_path))
        return [
            (str(one.file.relative_to(tmp_path)), one.line, f"{'note: ' if one.is_note else ''}{one.text}")
            for one in found
        ]

    return write_and_find


CASES = {
    "a default model that is not there": (
        {"settings.yaml": "models_dir: .\ndefault_model: tin\n", "models/tiny.yaml": "backend: echo\npath: x\n"},
        ("settings.yaml", 2, "Unknown model 'tin'. Did you mean 'tiny'?"),
    ),
    "a folder of models that is not there": (
        {"settings.yaml": "models_dir: nowhere\n"},
        ("settings.yaml", 1, "There is no folder 'nowhere'."),
    ),
    "a plugin that is not there": (
        {"settings.yaml": "\nplugins: [no_such_plugin]\n"},
        ("settings.yaml", 2, "Plugin 'no_such_plugin' was not found."),
    ),
    "a shared parameter out of range": (
        {"settings.yaml": "parameters:\n  temperature: 9\n"},
        ("settings.yaml", 2, "temperature must be a number from 0 to 2, found 9."),
    ),
    "a preset's typing error": (
        {"presets/calm.yaml": "temprature: 1\n"},
        ("presets/calm.yaml", 1, "Unknown setting 'temprature'. Did you mean 'temperature'?"),
    ),
    "a file that is no YAML": (
        {"models/broken.yaml": "backend: [echo\npath: x\n"},
        ("models/broken.yaml", 1, "this '[' or '{' is not closed, or a comma is missing."),
    ),
    "an unknown backend": (
        {"models/a.yaml": "path: x\nbackend: llama\n"},
        ("models/a.yaml", 2, "Unknown backend 'llama'. Did you mean 'llama.cpp'?"),
    ),
    "a parameter's typing error": (
        {"models/a.yaml": "backend: echo\npath: x\nparameters:\n  max_token: 1\n"},
        ("models/a.yaml", 4, "Unknown setting 'max_token'. Did you mean 'max_tokens'?"),
    ),
    "a file that is gone": (
        {"models/a.yaml": "backend: llama.cpp\npath: gone.gguf\n"},
        ("models/a.yaml", 2, "File not found: gone.gguf. Check the path."),
    ),
    "a key that is not set": (
        {"models/a.yaml": "backend: openai\npath: m\nparameters:\n  api_key: ${NO_SUCH_API_KEY}\n"},
        ("models/a.yaml", 4, "The environment variable NO_SUCH_API_KEY is not set."),
    ),
    "a key for all models that is not set": (
        {
            "settings.yaml": "parameters:\n  api_key: ${NO_SUCH_API_KEY}\n",
            "models/a.yaml": "backend: openai\npath: m\n",
        },
        ("settings.yaml", 2, "The environment variable NO_SUCH_API_KEY is not set."),
    ),
    "a key in plain text": (
        {"models/a.yaml": "backend: openai\npath: m\nparameters:\n  api_key: sk-0123456789abcdef\n"},
        ("models/a.yaml", 4, "note: A key stands here in plain text."),
    ),
}


@pytest.mark.parametrize(("files", "expected"), CASES.values(), ids=CASES)
def test_a_problem_is_found_at_its_file_and_line(
    find: Find, files: Mapping[str, str], expected: tuple[str, int, str]
) -> None:
    [(file, line, text)] = find(files)
    assert (file, line) == expected[:2] and text.startswith(expected[2]), text
    assert "sk-0123" not in text


def test_a_parameter_without_effect_is_a_note(find: Find, tmp_path: Path) -> None:
    class Deaf(BaseBackend):
        ignored = {"top_k": "it hears nothing."}

        def load_model(self, model_path: str, parameters: object = None) -> None: ...
        def generate_stream(self, prompt: str, parameters: object = None): ...  # type: ignore[no-untyped-def]
        def is_model_loaded(self) -> bool: ...  # type: ignore[empty-body]

    register_backend("deaf", Deaf)
    found = find({"models/a.yaml": "backend: deaf\npath: x\nparameters:\n  temperature: 1\n  top_k: 5\n"})
    assert found == [("models/a.yaml", 5, "note: top_k has no effect: it hears nothing.")]


def test_a_check_that_breaks_is_a_problem_of_its_model_alone(find: Find) -> None:
    class Broken(BaseBackend):
        def load_model(self, model_path: str, parameters: object = None) -> None: ...
        def generate_stream(self, prompt: str, parameters: object = None): ...  # type: ignore[no-untyped-def]
        def is_model_loaded(self) -> bool: ...  # type: ignore[empty-body]
        def check(self, path: str, parameters: object) -> None:
            raise ZeroDivisionError("of its own")

    register_backend("breaks", Broken)
    files = {"models/a.yaml": "backend: breaks\npath: x\n", "models/b.yaml": "backend: echo\npath: x\n"}
    assert find(files) == [("models/a.yaml", 2, "Its backend cannot check it: ZeroDivisionError: of its own")]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    [finding] = config_check.findings(LlamaForge(tmp_path / "nowhere"))
    assert str(finding) == f"{tmp_path}/nowhere: There is no such folder. Registering a model makes it."


def test_a_file_below_the_working_folder_is_told_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finding = config_check.Finding("Too hot.", tmp_path / "models" / "a.yaml", 3, is_note=True)
    assert str(finding) == "models/a.yaml:3: note: Too hot."
