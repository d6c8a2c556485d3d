"""Plugins: what settings.yaml and a model's file name, and one that is broken takes nothing down."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin_kit import EXAMPLE, install_example
from scripted import run_python
from worker_kit import worker_of, workers

from llamaforge import Chunk, ConfigError, LlamaForge, Message, backend_names
from llamaforge.plugins import aside
from llamaforge.plugins.base import LoadedModel

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


# Settings


SETTINGS = {
    "unknown": ("- name: trimmer\n  turn: 8", 3, "Unknown setting 'turn'. Did you mean 'turns'?"),
    "out of range": ("- name: trimmer\n  turns: 0", 3, "turns must be a whole number from 1 to 10,000, found 0."),
    "twice": ("- trimmer\n- {name: trimmer, turns: 8}", 3, "Plugin 'trimmer' stands twice in the list."),
}


@pytest.mark.parametrize(("entries", "line", "sentence"), SETTINGS.values(), ids=SETTINGS)
def test_a_wrong_setting_is_told_with_its_line_and_the_plugin_is_left_out(
    folder: Path, entries: str, line: int, sentence: str
) -> None:
    (folder / "settings.yaml").write_text(f"plugins:\n{entries}\n", "utf-8")
    problem = LlamaForge(folder).config.plugin_problems["trimmer"]
    assert str(problem).startswith(f"configs/settings.yaml line {line}: {sentence}")


ENTRIES = {
    "a number": ("- 3", "Here stands a name, or {name: trimmer, turns: 8}, found 3."),
    "no name": ("- {turns: 8}", "Here stands a name, or"),
    "enabled": ("- {name: trimmer, enabled: perhaps}", "enabled must be true or false, found 'perhaps'."),
}


@pytest.mark.parametrize(("entry", "sentence"), ENTRIES.values(), ids=ENTRIES)
def test_an_entry_that_is_none_is_refused_with_its_line(folder: Path, entry: str, sentence: str) -> None:
    (folder / "settings.yaml").write_text(f"plugins:\n- shouting\n{entry}\n", "utf-8")
    problem = LlamaForge(folder).config.settings.problem
    assert problem is not None and problem.line == 3 and sentence in str(problem)


def test_a_name_that_is_nearly_a_plugins_is_told(folder: Path) -> None:
    (folder / "settings.yaml").write_text("plugins: [trimer]\n", "utf-8")
    assert str(LlamaForge(folder).config.plugin_problems["trimer"]).endswith("Did you mean 'trimmer'?")


MODELS = {
    "unknown plugin": ("trimer: true", "line 4: Unknown plugin 'trimer'. Did you mean 'trimmer'?"),
    "wrong setting": ("trimmer:\n    turns: many", "line 5: turns must be a whole number from 1 to 10,000"),
}


@pytest.mark.parametrize(("text", "sentence"), MODELS.values(), ids=MODELS)
def test_what_is_wrong_in_a_models_file_is_told_with_its_line_and_the_model_answers(
    folder: Path, text: str, sentence: str
) -> None:
    (folder / "models" / "echo.yaml").write_text(f"backend: echo\npath: x\nplugins:\n  {text}\n", "utf-8")
    forge = LlamaForge(folder)
    forge.load_model("echo")
    answer = forge.chat_stream([Message("user", "hi")])
    assert "".join(answer) == "hi"
    (note,) = answer.notes
    assert note.failed and f"models/echo.yaml {sentence}" in note.text
    with pytest.raises(ConfigError, match=sentence.split(":")[0]):
        forge.config.save_shown("echo", forge.config.shown("echo")[0], digest=forge.config.shown("echo")[1])
    forge.unload_model()


@pytest.mark.parametrize(
    ("text", "line"), [("plugins: [trimmer]", 3), ("plugins:\n  trimmer: 3", 4)], ids=["a list", "a number"]
)
def test_a_models_plugins_must_be_names_with_what_holds(folder: Path, text: str, line: int) -> None:
    (folder / "models" / "echo.yaml").write_text(f"backend: echo\npath: x\n{text}\n", "utf-8")
    problem = LlamaForge(folder).model("echo").problem
    assert isinstance(problem, ConfigError) and problem.line == line


def test_a_switch_keeps_comments_and_settings(folder: Path) -> None:
    file = folder / "models" / "echo.yaml"
    file.write_text("backend: echo\npath: x  # why\nplugins:\n  # short\n  trimmer:\n    turns: 4  # four\n", "utf-8")
    forge = LlamaForge(folder)
    for on in (False, True):
        forge.config.switch_plugin("echo", "trimmer", on)
        assert file.read_text("utf-8").endswith(f"turns: 4  # four\n    enabled: {str(on).lower()}\n")
        assert forge.plugins("echo")[0].enabled is on
    forge.config.switch_plugin("echo", "template", True)
    assert file.read_text("utf-8").endswith("  template: true\n") and "# why" in file.read_text("utf-8")


HOOK = """
from llamaforge import Chunk, Parameters, Plugin, register_plugin

class Exclaim(Plugin):
    api = 1
    class Settings(Parameters):
        mark: str = "!"
    def after(self, chunks):
        yield from chunks
        yield Chunk(self.settings.mark)

"""


@pytest.mark.parametrize(
    "settings", ["[hook_module]", "[{name: exclaim_hook}]", "[hook_module, {name: exclaim, mark: '!'}]"]
)
def test_a_module_brings_hooks_by_its_own_name_or_by_theirs(folder: Path, settings: str) -> None:
    for module, name in {"hook_module": "exclaim", "exclaim_hook": "exclaim_hook"}.items():
        source = f"{HOOK}register_plugin({name!r}, Exclaim)\n"
        (folder / "plugins" / f"{module}.py").write_text(source, "utf-8")
    (folder / "settings.yaml").write_text(f"plugins: {settings}\n", "utf-8")
    forge = LlamaForge(folder)
    assert not forge.config.plugin_problems
    forge.add_model("echo", "x", "echo")
    forge.load_model("echo")
    assert forge.chat([Message("user", "hi")]) == "hi!"
    forge.unload_model()


def test_an_installed_plugin_is_not_imported_before_settings_name_it(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install_example(site)
    script = (
        f"import sys; sys.path.append({str(site)!r})\n"
        "from llamaforge import LlamaForge, plugin_names\n"
        "forge = LlamaForge('configs'); forge.add_model('a', 'b', 'echo'); forge.load_model('a')\n"
        "assert 'redactor' in plugin_names()\n"
        "print('llamaforge_redactor' in sys.modules)\n"
        "answer = forge.chat_stream([{'role': 'user', 'content': 'Write to bob@example.org or al@b.de.'}])\n"
        "print(''.join(answer), [note.text for note in answer.notes])\n"
        "try: forge.add_model('c', 'd', 'echo', plugins={'redactor': True})\n"
        "except Exception as error: print(error)\n"
    )
    (tmp_path / "configs").mkdir()
    done = run_python(script, folder=tmp_path)
    assert done.stdout.splitlines() == [
        "False",
        "Write to bob@example.org or al@b.de. []",
        "Plugin 'redactor' is not named in settings.yaml. Add it there: plugins: [redactor]",
    ], done.stderr
    (tmp_path / "configs" / "settings.yaml").write_text("plugins: [{name: redactor, mask: '***'}]\n", "utf-8")
    done = run_python(script, folder=tmp_path)
    assert done.stdout.splitlines() == [
        "True",
        "Write to *** or ***. ['2 e-mail addresses were masked.']",
    ], done.stderr


def test_the_redactor_masks_an_address_in_pieces_and_holds_nothing_else_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from llamaforge_redactor import Redactor  # type: ignore[import-not-found]

    plugin = Redactor(Redactor.Settings(), LoadedModel())
    pieces = [Chunk("Write "), Chunk("to b"), Chunk("ob@ex"), Chunk("ample.o"), Chunk("rg now"), Chunk("", "a@b.c so")]
    said = list(plugin.after(iter(pieces)))
    assert [chunk.text for chunk in said] == ["Write ", "to ", "", "", "[e-mail] ", "", "now"]
    assert "".join(chunk.reasoning for chunk in said) == "[e-mail] so"
    assert plugin.notes == ["2 e-mail addresses were masked."]
