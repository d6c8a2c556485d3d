"""The twenty things that every backend is held to, near and far."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from tiny_gguf import COUNTING_ANSWER
from tiny_hf import write_tiny_hf
from worker_kit import isolated

from llamaforge import conformance

FOUR_METHODS = """
from llamaforge.backends.base import BaseBackend
from llamaforge.backends import register_backend

class MyCustomBackend(BaseBackend):
    def load_model(self, model_path, parameters=None): ...
    def generate(self, prompt, parameters=None): ...
    def generate_stream(self, prompt, parameters=None): yield "Streaming response"
    def is_model_loaded(self): return True
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_gguf: Path, endless_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config folder with tiny and endless models, one of four methods, one that echoes and one that is not there."""
    monkeypatch.delitem(sys.modules, "plugin_of_four", raising=False)  # of the test before
    models = {
        "tiny": ("llama.cpp", tiny_gguf),
        "endless": ("llama.cpp", endless_gguf),
        "gone": ("llama.cpp", tmp_path / "gone.gguf"),
        "echo": ("echo", "nowhere"),
        "hugging": ("huggingface", write_tiny_hf(tmp_path / "hugging")),
        "endless-hugging": ("huggingface", write_tiny_hf(tmp_path / "endless", COUNTING_ANSWER, endless=True)),
        "four-methods": ("four", "anywhere"),
    }
    four = f"{FOUR_METHODS}\nregister_backend('four', 'plugin_of_four:MyCustomBackend', overwrite=True)\n"
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "plugin_of_four.py").write_text(four, "utf-8")
    (tmp_path / "settings.yaml").write_text("plugins: [plugin_of_four]\n", "utf-8")
    (tmp_path / "models").mkdir()
    for name, (backend, path) in models.items():
        parameters = {"n_threads": 1} if backend == "llama.cpp" else {}
        text = yaml.safe_dump({"backend": backend, "path": str(path), "parameters": parameters})
        (tmp_path / "models" / f"{name}.yaml").write_text(text, "utf-8")
    return tmp_path


MODELS = ["tiny", "endless", "hugging", "endless-hugging", "four-methods", "echo"]


@pytest.mark.parametrize(("model", "columns"), [(name, 1 if name == "echo" else 2) for name in MODELS])
def test_a_backend_of_ours_holds_near_and_far(
    folder: Path, capsys: pytest.CaptureFixture[str], model: str, columns: int
) -> None:
    code = conformance.main([model, "--config", str(folder)])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, "\n".join(lines)
    assert lines[0].split() == ["near", "far"][:columns] and len(lines) == 21
    assert all(line.count("holds") + line.count("n/a") == columns for line in lines[1:])


@pytest.mark.parametrize("isolate", [False, True], ids=["near", "far"])
def test_a_backend_of_somebodys_own_holds_near_and_far(tmp_path: Path, isolate: bool) -> None:
    with isolated(tmp_path, isolate=isolate) as forge:
        outcomes = conformance.run(forge, "fault")
    table = conformance.table({"fault": outcomes})
    assert {outcome.verdict for outcome in outcomes} <= {"holds", "n/a"}, table
    assert len(outcomes) == 20 and sum(outcome.verdict == "holds" for outcome in outcomes) >= 15, table


def test_what_does_not_hold_is_seen_in_the_table(tmp_path: Path) -> None:
    with isolated(tmp_path) as forge:
        forge.add_model("fault", "nowhere", "fault", {"mode": "raise_at"})
        outcomes = {outcome.check: outcome for outcome in conformance.run(forge, "fault", patience=1)}
    assert outcomes["answers a chat"].verdict == "FAILS" and "melted" in outcomes["answers a chat"].seen


@pytest.mark.parametrize(("model", "words"), [("gone", "gone.gguf"), ("nobody", "Unknown model 'nobody'")])
def test_a_model_that_cannot_be_loaded_is_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], model: str, words: str
) -> None:
    assert conformance.main([model, "--config", str(folder)]) == 1
    said = capsys.readouterr()
    assert words in said.err and said.out == ""
