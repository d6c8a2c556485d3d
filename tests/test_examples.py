"""The examples and the plugins that the guides show do what the pages say of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from doc_blocks import write_files
from scripted import ROOT, run_python
from tiny_gguf import DEFAULT_ANSWER


def run_example(name: str, *arguments: object, stdin: str = "", folder: Path) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, input=stdin, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
