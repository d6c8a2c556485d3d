"""Plugins: modules that settings.yaml names bring backends, and one that is broken takes nothing down."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import run_python
from worker_kit import worker_of, workers

from llamaforge import LlamaForge, backend_names
from llamaforge.plugins import aside

BACKEND = """
import os
from llamaforge.backends.base import BaseBackend
from llamaforge.backends import register_backend

class MyCustomBackend(BaseBackend):
    def load_model(self, model_path, parameters=None): ...
    def generate(self, prompt, parameters=None): return f"whole from {os.getpid()}"
    def generate_stream(self, prompt, parameters=None): yield f"Streaming response from {os.getpid()}"
    def is_model_loaded(self): return True

"""
BY_CLASS = BACKEND + 'register_backend("my_custom", MyCustomBackend, overwrite=True)\n'
BY_NAME = BACKEND + 'register_backend("my_custom", "plugin_by_name:MyCustomBackend", overwrite=True)\n'


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A config folder; what its plugins have imported is forgotten after the test."""
    folder = tmp_path / "configs"
    (folder / "plugins").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "models" / "mine.yaml").write_text("backend: my_custom\npath: anywhere\n", "utf-8")
    path = list(sys.path)
    yield folder
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


def with_plugins(folder: Path, **sources: str) -> None:
    for name, source in sources.items():
        (folder / "plugins" / f"{name}.py").write_text(source, "utf-8")
    (folder / "settings.yaml").write_text(f"plugins: [{', '.join(sources)}]\n", "utf-8")


def test_a_plugin_brings_a_backend_that_yaml_can_name(folder: Path) -> None:
    with_plugins(folder, plugin_by_class=BY_CLASS)
    forge = LlamaForge(folder)
    forge.load_model("mine")
    assert forge.generate("hi") == f"Streaming response from {os.getpid()}"
    forge.unload_model()


def test_a_backend_that_is_registered_by_name_runs_in_a_process_of_its_own(folder: Path) -> None:
    with_plugins(folder, plugin_by_name=BY_NAME)
    forge = LlamaForge(folder, isolate=True)
    forge.load_model("mine")
    assert forge.generate("hi") == f"Streaming response from {worker_of(forge).pid}"
    forge.unload_model()
    assert not workers()


def test_without_its_plugin_a_model_is_listed_with_what_is_wrong(folder: Path) -> None:
    forge = LlamaForge(folder)
    assert "Unknown backend 'my_custom'" in str(forge.model("mine").problem)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            "import no_such_package\n",
            "Plugin 'broken_one' is broken: it needs 'no_such_package', which is not installed.",
        ),
        ("def (:\n", "Plugin 'broken_one' is broken: SyntaxError"),
        ("raise ValueError('out of luck')\n", "Plugin 'broken_one' is broken: ValueError: out of luck"),
        ("import sys\nsys.exit(3)\n", "Plugin 'broken_one' is broken: SystemExit: 3"),
        ("import threading\nthreading.Event().wait()\n", "Plugin 'broken_one' is broken: its import does not end."),
    ],
    ids=["needs a package", "syntax", "raises", "exits", "hangs"],
)
def test_a_broken_plugin_is_told_and_the_others_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, sentence: str
) -> None:
    monkeypatch.setattr(aside, "IMPORT_SECONDS", 1.0)
    with_plugins(folder, broken_one=source, plugin_by_class=BY_CLASS)
    forge = LlamaForge(folder)
    assert str(forge.config.plugin_problems["broken_one"]).startswith(sentence)
    assert list(forge.config.plugin_problems) == ["broken_one"] and "my_custom" in backend_names()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("plugins: [gone_plugin]", "Plugin 'gone_plugin' was not found. Put gone_plugin.py into configs/plugins"),
        ("plugins: ['../evil']", "Plugin '../evil' is no name of a Python module."),
    ],
    ids=["missing", "a path"],
)
def test_a_plugin_that_is_not_there_says_where_to_put_it(folder: Path, line: str, sentence: str) -> None:
    (folder / "settings.yaml").write_text(f"{line}\n", "utf-8")
    (problem,) = LlamaForge(folder).config.plugin_problems.values()
    assert str(problem).startswith(sentence)


def test_plugins_that_are_no_list_are_refused_with_their_line(folder: Path) -> None:
    (folder / "settings.yaml").write_text("default_model: mine\nplugins: one\n", "utf-8")
    problem = LlamaForge(folder).config.settings.problem
    assert problem is not None and problem.line == 2 and "must be a list of names" in str(problem)


def test_no_file_among_the_plugins_takes_the_place_of_an_installed_package(folder: Path) -> None:
    with_plugins(folder, plugin_by_class=BY_CLASS)
    (folder / "plugins" / "psutil.py").write_text("raise SystemExit\n", "utf-8")
    LlamaForge(folder)
    assert sys.path.index(str(folder / "plugins")) == len(sys.path) - 1


def test_an_installed_package_brings_a_backend_by_its_entry_point(tmp_path: Path) -> None:
    info = tmp_path / "forge_shout-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: forge-shout\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("[llamaforge.backends]\nshout = forge_shout:MyCustomBackend\n", "utf-8")
    (tmp_path / "forge_shout.py").write_text(BACKEND, "utf-8")
    script = (
        f"import sys; sys.path.append({str(tmp_path)!r})\n"
        "from llamaforge import LlamaForge\n"
        "forge = LlamaForge(); forge.add_model('a', 'b', 'shout'); forge.load_model('a')\n"
        "print(forge.generate('hi'))\n"
    )
    done = run_python(script, folder=tmp_path)
    assert done.stdout.startswith("Streaming response"), done.stderr
