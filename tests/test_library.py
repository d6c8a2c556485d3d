"""The house as a whole: what an import costs, which room may know which, and the lines that the docs promise."""

from __future__ import annotations

import ast
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import ROOT, run_python
from tiny_gguf import DEFAULT_ANSWER

import llamaforge
from llamaforge import backends, plugins, redaction

LIBRARY = sorted((ROOT / "llamaforge").rglob("*.py"))
PAGE = sorted((ROOT / "llamaforge_ui").rglob("*.py"))
BACKENDS = [path for path in LIBRARY if path.parent.name == "backends"]
PLUGINS = [path for path in LIBRARY if path.parent.name == "plugins"]
HEAVY = ("gradio", "torch", "transformers", "llama_cpp", "openai")

MODEL = """
from llamaforge import LlamaForge

forge = LlamaForge()
forge.add_model(name="llama-2-7b", path="/path/to/llama-2-7b.gguf", backend="llama.cpp",
                parameters={"n_gpu_layers": 32, "n_ctx": 4096, "temperature": 0.7})
forge.config.save()
forge.load_model("llama-2-7b")
response = forge.generate("Explain quantum computing in simple terms")
print(response)                      # a str
"""
CUSTOM_BACKEND = """
from llamaforge.backends.base import BaseBackend
from llamaforge.backends import register_backend

class MyCustomBackend(BaseBackend):
    def load_model(self, model_path, parameters=None): ...
    def generate(self, prompt, parameters=None): ...
    def generate_stream(self, prompt, parameters=None): yield "Streaming response"
    def is_model_loaded(self): return True

register_backend("my_custom", MyCustomBackend)
"""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_of(path: Path) -> set[str]:
    """Return the absolute names of the modules and names that a file imports, wherever in it."""
    package = [*path.relative_to(ROOT).parent.parts]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def knows(path: Path, *rooms: str) -> set[str]:
    return {name for name in imports_of(path) for room in rooms if f"{name}.".startswith(f"{room}.")}


def module_level(path: Path) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names that a module binds by assignment, with what they are bound to."""
    for node in ast.parse(path.read_text("utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(value, ast.expr):
                yield target.id, value


@pytest.mark.parametrize(
    "module",
    ["llamaforge", "llamaforge.backends.llama_cpp", "llamaforge.backends.openai", "llamaforge.worker_backend"],
)
def test_importing_the_library_loads_no_engine_and_no_page(module: str) -> None:
    done = run_python(f"import {module}, sys; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_public_names_are_sorted_and_all_there_is() -> None:
    assert llamaforge.__all__ == sorted(llamaforge.__all__)
    modules = {name.split(".")[1] for name in sys.modules if name.startswith("llamaforge.")}
    public = {name for name in vars(llamaforge) if not name.startswith("_")} - modules
    assert public == set(llamaforge.__all__) - modules


def test_every_error_is_public_and_of_one_tree() -> None:
    for name, error in vars(llamaforge.errors).items():
        if isinstance(error, type) and error.__module__ == "llamaforge.errors":
            assert getattr(llamaforge, name) is error and issubclass(error, llamaforge.LlamaForgeError)


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_knows_no_page(path: Path) -> None:
    assert not knows(path, "llamaforge_ui", "gradio", "app")


def family_of(path: Path) -> str:
    """Return the backend that a file is a part of: llama_cpp for llama_cpp_native.py."""
    stems = [place.split(":")[0].split(".")[-1] for place in backends._registry.values() if isinstance(place, str)]
    return next((stem for stem in stems if path.stem.startswith(stem)), path.stem)


@pytest.mark.parametrize("path", BACKENDS, ids=name_of)
def test_a_backend_knows_no_other_backend_no_forge_and_no_config(path: Path) -> None:
    shared = ("base", "parameters", "keys", family_of(path))
    others = {f"llamaforge.backends.{other.stem}" for other in BACKENDS if not other.stem.startswith(shared)}
    upstairs = {f"llamaforge.{room}" for room in ("forge", "config", "engine", "generation", "yaml_file")}
    workers = {"llamaforge.worker", "llamaforge.worker_backend", "llamaforge.plugins"}
    assert not knows(path, *others, *upstairs, *workers)


@pytest.mark.parametrize("name", ["types.py", "redaction.py", "errors.py"])
def test_the_ground_floor_stands_on_the_standard_library(name: str) -> None:
    modules = imports_of(ROOT / "llamaforge" / name)
    beside = (
        {module for module in modules if module.startswith("llamaforge.redaction")} if name == "errors.py" else set()
    )
    assert {module.split(".")[0] for module in modules - beside} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("room", "upstairs"),
    [
        ("config.py", ["forge", "engine", "generation", "worker", "worker_backend"]),
        ("yaml_file.py", ["forge", "config", "backends", "engine"]),
        ("gguf_file.py", ["forge", "config", "backends", "engine"]),
        ("memory.py", ["forge", "config", "backends", "engine"]),
        ("generation.py", ["forge", "config", "backends", "engine"]),
        ("engine.py", ["forge", "config"]),
        ("text_stream.py", ["forge", "config", "backends", "engine", "generation"]),
        ("chat_template.py", ["forge", "config", "backends", "engine", "generation"]),
        *((f"plugins/{path.name}", ["forge", "config", "engine", "generation", "worker"]) for path in PLUGINS),
        ("worker.py", ["forge", "config", "engine", "generation", "worker_backend"]),
        ("worker_backend.py", ["forge", "config", "engine", "generation"]),
    ],
)
def test_the_arrows_point_down(room: str, upstairs: list[str]) -> None:
    assert not knows(ROOT / "llamaforge" / room, *(f"llamaforge.{name}" for name in upstairs))


@pytest.mark.parametrize("path", PAGE, ids=name_of)
def test_the_page_knows_only_public_names_of_the_library(path: Path) -> None:
    public = {f"llamaforge.{name}" for name in llamaforge.__all__} | {"llamaforge"}
    assert knows(path, "llamaforge") <= public


@pytest.mark.parametrize("path", LIBRARY + PAGE, ids=name_of)
def test_no_module_holds_state_but_the_registries_and_the_keys_to_hide(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]
    constants = {name for name, _ in module_level(path) if name.strip("_").isupper()}
    variables = {name for name, value in module_level(path) if name[0].islower() and name != "logger"}
    state = variables | {name for name in constants if name in changed_names(tree)}
    private = {name for name, _ in module_level(path) if name.startswith("_") and not name.strip("_").isupper()}
    registries = {Path(room.__file__): {"_registry"} for room in (backends, plugins)}
    allowed = {**registries, Path(redaction.__file__): {"_noted"}}.get(path, set())
    assert (state | private) - {"__all__"} == allowed


def changed_names(tree: ast.AST) -> set[str]:
    """Return the names whose items or attributes are assigned, or that are told to change themselves."""
    methods = ("append", "add", "update", "pop", "clear", "extend", "setdefault", "remove", "discard", "insert")
    changed: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.value, ast.Name):
            if isinstance(node.ctx, ast.Store | ast.Del):
                changed.add(node.value.id)
            elif isinstance(node, ast.Attribute) and node.attr in methods:
                changed.add(node.value.id)
    return changed


@pytest.fixture
def config_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that LlamaForge() finds by itself."""
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "settings.yaml").write_text("parameters:\n  n_threads: 1\n")
    monkeypatch.setenv("LLAMAFORGE_CONFIG", str(folder))
    return folder


def test_the_promised_lines_run_twice_in_one_process(
    tiny_gguf: Path, config_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        script = {"__name__": "__main__"}
        exec(MODEL.replace("/path/to/llama-2-7b.gguf", str(tiny_gguf)), script)
        assert capsys.readouterr().out == DEFAULT_ANSWER + "\n"
        assert isinstance(script["response"], str)
        script["forge"].unload_model()  # type: ignore[attr-defined]
    assert (config_folder / "models" / "llama-2-7b.yaml").is_file()


def test_the_promised_custom_backend_registers_twice_and_answers(config_folder: Path) -> None:
    for _ in range(2):
        exec(CUSTOM_BACKEND, {"__name__": "__main__"})
        forge = llamaforge.LlamaForge()
        forge.add_model("mine", "anywhere", "my_custom")
        forge.load_model("mine")
        assert forge.generate("hi") == forge.chat([{"role": "user", "content": "hi"}]) == "Streaming response"
        assert forge.generate("hi", raw=True) == "Streaming response"
        forge.unload_model()


def test_what_one_process_saves_another_loads(tiny_gguf: Path, config_folder: Path) -> None:
    first = MODEL.replace("/path/to/llama-2-7b.gguf", str(tiny_gguf)).replace("forge.load_model", "0 and forge.load")
    assert run_python(first.split("response")[0]).stderr == ""
    second = "from llamaforge import LlamaForge\nforge = LlamaForge()\nforge.load_model('llama-2-7b')\n"
    done = run_python(second + "print(forge.status.context_window, forge.generate('hi'))")
    assert (done.stdout, done.stderr, done.returncode) == (f"4096 {DEFAULT_ANSWER}\n", "", 0)


def test_tests_stay_on_this_machine() -> None:
    with socket.socket() as outside, pytest.raises(RuntimeError, match="tests stay on this machine"):
        outside.connect(("192.0.2.1", 80))
    with pytest.raises(RuntimeError, match="tests stay on this machine"):
        socket.getaddrinfo("example.com", 80)
    assert socket.getaddrinfo("127.0.0.1", 80)
