"""What README and examples/ show runs as it is written, but for the path of the model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripted import ROOT, run_python
from tiny_gguf import DEFAULT_ANSWER

README = (ROOT / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run_example(name: str, *arguments: object, stdin: str = "", folder: Path) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, input=stdin, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_the_python_of_the_readme_runs_as_it_is_written(tmp_path: Path, tiny_gguf: Path, number: int) -> None:
    script = SNIPPETS[number].replace("/path/to/llama-2-7b.gguf", str(tiny_gguf))
    done = run_python(script, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("print(" in script) == (done.stdout.strip() == DEFAULT_ANSWER)


def test_the_terminal_chat_answers_until_an_empty_line(tmp_path: Path, tiny_gguf: Path) -> None:
    said = run_example("terminal_chat.py", tiny_gguf, stdin="Hello\nAnd again\n\n", folder=tmp_path)
    assert said.count(DEFAULT_ANSWER) == 2


def test_the_custom_backend_shouts(tmp_path: Path) -> None:
    assert run_example("custom_backend.py", folder=tmp_path) == "HELLO!!!\n"
