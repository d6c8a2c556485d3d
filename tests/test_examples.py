"""What README, the guide and examples/ show runs as it is written, but for path, address and device."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scripted import ROOT, run_python
from test_openai_server import llama_server  # noqa: F401 - a fixture
from tiny_gguf import DEFAULT_ANSWER
from tiny_hf import write_tiny_hf

PAGES = ("README.md", "docs/guides/backends.md", "docs/guides/plugins.md", "docs/security.md", "docs/space.md")
BLOCK = re.compile(r"^```(python|yaml)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (configs/[\w/.-]+\.(?:py|yaml))\b")
ADDRESS = "http://127.0.0.1:8080/v1"


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the language and the text of every block of Python and YAML in a page."""
    return BLOCK.findall((ROOT / page).read_text("utf-8"))


def scripts() -> list[Any]:
    found = [(page, text) for page in PAGES for kind, text in blocks(page) if kind == "python"]
    return [pytest.param(text, id=f"{page}-{number}") for number, (page, text) in enumerate(found)]


def write_files(page: str, folder: Path) -> list[str]:
    """Write every file of a config folder that a page shows, by the name in its first line; return the names."""
    files = {file[1]: text for _, text in blocks(page) if (file := FILE.match(text))}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return list(files)


def run_example(name: str, *arguments: object, stdin: str = "", folder: Path) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, input=stdin, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("text", scripts())
def test_the_python_of_the_pages_runs_as_it_is_written(
    tmp_path: Path, tiny_gguf: Path, canary: None, request: pytest.FixtureRequest, text: str
) -> None:
    script = text.replace("/path/to/llama-2-7b.gguf", str(tiny_gguf)).replace('"cuda"', '"cpu"')
    if "/path/to/hf-model" in script:
        script = script.replace("/path/to/hf-model", str(write_tiny_hf(tmp_path / "hf-model")))
    if ADDRESS in script:
        script = script.replace(ADDRESS, request.getfixturevalue("llama_server"))
    done = run_python(script, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("print(" in script) == (done.stdout.strip() == DEFAULT_ANSWER)


@pytest.mark.parametrize("page", PAGES)
def test_the_files_of_the_pages_are_right(tmp_path: Path, page: str) -> None:
    names = write_files(page, tmp_path)
    script = """
from llamaforge import LlamaForge

forge = LlamaForge("configs")
assert not forge.config.plugin_problems, forge.config.plugin_problems
assert forge.config.settings.problem is None, forge.config.settings.problem
print(*(f"{model.name}.yaml {model.problem}" for model in forge.models()), sep="\\n")
"""
    done = run_python(script, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = [f"{Path(name).name} None" for name in names if name.startswith("configs/models/")]
    assert expected
    assert sorted(done.stdout.splitlines()) == sorted(expected)


def test_every_yaml_of_the_pages_is_a_file_that_is_tried() -> None:
    for page in PAGES:
        for kind, text in blocks(page):
            assert kind == "python" or FILE.match(text), text


def test_the_plugin_of_the_guide_answers_in_a_process_of_its_own(tmp_path: Path) -> None:
    write_files("docs/guides/backends.md", tmp_path)
    script = """
from llamaforge import LlamaForge

forge = LlamaForge("configs", isolate=True)
forge.load_model("loud")
print(forge.generate("hello", raw=True))
"""
    done = run_python(script, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "HELLO\n"), done.stderr


def test_the_polite_plugin_of_the_guide_changes_what_is_sent_and_said(tmp_path: Path) -> None:
    write_files("docs/guides/plugins.md", tmp_path)
    script = """
from llamaforge import LlamaForge

forge = LlamaForge("configs")
forge.add_model("echo", "-", "echo")
forge.load_model("echo")
answer = forge.chat_stream([{"role": "user", "content": "Listen!"}])
print("".join(answer), *(note.text for note in answer.notes), sep="\\n")
assert [use.name for use in forge.plugins("short") if use.enabled and not use.problem] == ["trimmer", "template"]
"""
    done = run_python(script, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "Listen., please\nAsked with 'please'.\n"), done.stderr


def test_the_terminal_chat_answers_until_an_empty_line(tmp_path: Path, tiny_gguf: Path) -> None:
    said = run_example("terminal_chat.py", tiny_gguf, stdin="Hello\nAnd again\n\n", folder=tmp_path)
    assert said.count(DEFAULT_ANSWER) == 2


def test_the_custom_backend_shouts(tmp_path: Path) -> None:
    assert run_example("custom_backend.py", folder=tmp_path) == "HELLO!!!\n"
