"""`python app.py` from the outside: its flags, its variables, how it starts, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from gradio_client import Client
from guest_kit import Guest
from page_kit import ROOT, Program, free_port
from scripted import claim_version, until
from tiny_gguf import COUNTING_ANSWER, write_tiny_gguf
from tiny_hf import write_tiny_hf

import app as app_module

END_SECONDS = 5.0
ENGINES = ("torch", "transformers", "llama_cpp", "openai")
OWNER_TABS = ("Models", "Parameters")
OWNER_PASSWORD = "LLAMAFORGE_OWNER_PASSWORD"
OPENING = {
    "GRADIO_SHARE": "true",
    "GRADIO_SERVER_NAME": "0.0.0.0",
    "GRADIO_MCP_SERVER": "true",
    "GRADIO_ALLOWED_PATHS": "/",
    "GRADIO_ROOT_PATH": "/elsewhere",
    "GRADIO_DEBUG": "1",
    "GRADIO_VIBE_MODE": "1",
}
WITHOUT_LLAMA_CPP = """\
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.partition(".")[0] == "llama_cpp" else find(name, *more)
"""


# Gradio's own boundary to its tunnel, which nothing outside this machine can be reached without.
TUNNEL = """\
import sys
from importlib.machinery import PathFinder

class Tunnel:
    def find_spec(self, name, path=None, target=None):
        if name != "gradio.networking":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def replaced(module):
            load(module)
            module.setup_tunnel = SETUP

        spec.loader.exec_module = replaced
        return spec

def no_tunnel(*arguments, **named):
    raise RuntimeError("the tunnel is blocked")

SETUP = lambda *arguments, **named: "https://a.gradio.live"
sys.meta_path.insert(0, Tunnel())
"""
NO_TUNNEL = TUNNEL.replace('SETUP = lambda *arguments, **named: "https://a.gradio.live"', "SETUP = no_tunnel")

# What a full disk does: every write to a file fails.
NO_FILE_MAY_GROW = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "echo.yaml").write_text("backend: echo\npath: echo\n", "utf-8")
    return tmp_path


@contextlib.contextmanager
def started(*flags: str, **env: str) -> Iterator[Program]:
    """Run the app until its page is up; it must end cleanly."""
    program = Program(*flags, env=env)
    try:
        program.wait_until_up()
        yield program
    finally:
        code = program.stop()
    assert code == 0, program.output


def config_of(address: str) -> dict[str, Any]:
    config: dict[str, Any] = httpx.get(f"{address}/config", timeout=30).json()
    return config


def labels(config: dict[str, Any]) -> list[str]:
    return [part["props"].get("label") for part in config["components"] if part["type"] == "tabitem"]


def ids(config: dict[str, Any]) -> list[str]:
    return [part["props"]["elem_id"] for part in config["components"] if part["props"].get("elem_id")]


@contextlib.contextmanager
def taken(port: int) -> Iterator[None]:
    """Take a port of this machine, or find it taken; it stays so meanwhile."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            other.bind(("127.0.0.1", port))
            other.listen()
        yield


def test_help_names_every_flag_without_loading_the_page() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "app.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    for flag in ("--force", "--host", "--port", "--share", "--config", "--data", "--model", "--allow-remote-code"):
        assert flag in done.stdout
    assert "gradio" not in done.stderr


def test_a_flag_that_is_unknown_is_refused() -> None:
    program = Program("--prot", "7860")
    assert program.ended() == 2
    assert "--prot" in program.output


def test_a_port_in_use_is_refused_in_one_sentence(folder: Path) -> None:
    port = free_port()
    with taken(port):
        program = Program("--config", str(folder), "--port", str(port))
        assert program.ended() == 2
    assert program.output == (
        f"Port {port} is used by another program (maybe LlamaForge is already running). Use --port {port + 1}.\n"
    )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--port", "70000"), "a port is a number from 1 to 65535, found '70000'"),
        (("--port", "0"), "a port is a number from 1 to 65535, found '0'"),
        (("--host", "no.such.host.invalid"), "This computer has no address 'no.such.host.invalid'."),
        (("--host", "192.0.2.7", "--port", "7961"), "This computer has no address '192.0.2.7'."),
    ],
    ids=["too high", "zero", "unknown host", "another computer's address"],
)
def test_an_address_that_cannot_be_is_refused_in_a_sentence(flags: tuple[str, ...], sentence: str) -> None:
    program = Program(*flags)
    assert program.ended() == 2
    assert sentence in program.output and "Traceback" not in program.output


def test_where_the_usual_port_is_taken_the_next_free_one_is_said(folder: Path) -> None:
    with taken(app_module.PORT), started("--config", str(folder)) as program:
        address = program.wait_until_up()
        port = int(address.rsplit(":", 1)[1])
        assert app_module.PORT < port <= app_module.PORT + app_module.PORTS_TRIED
        assert f"Port {app_module.PORT} is used by another program, so this is port {port}." in program.output
        assert httpx.get(address).status_code == 200


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_it_ends_within_five_seconds_in_the_middle_of_an_answer(folder: Path, name: signal.Signals) -> None:
    path = write_tiny_gguf(folder / "endless.gguf", COUNTING_ANSWER, endless=True, layers=8, n_ctx_train=16384)
    text = f"backend: llama.cpp\npath: {path}\nparameters:\n  n_threads: 1\n"
    (folder / "models" / "endless.yaml").write_text(text, "utf-8")
    program = Program("--config", str(folder), "--port", str(free_port()), "--model", "endless")
    address = program.wait_until_up()
    job = ask_when_loaded(address, "Count")
    next(iter(job))
    children = psutil.Process(program.process.pid).children(recursive=True)
    begun = time.monotonic()
    assert program.stop(name) == 0
    assert time.monotonic() - begun < END_SECONDS
    assert "Traceback" not in program.output
    assert psutil.wait_procs(children, timeout=END_SECONDS)[1] == []


def ask_when_loaded(address: str, message: str) -> Any:
    """Send a message through the endpoint as soon as the model that is loaded at the start is ready."""
    client = Client(address, verbose=False)
    until(lambda: "lf-ready" in status_of(address))
    return client.submit(message, api_name="/chat")


def status_of(address: str) -> str:
    """Return what the page is told of the model at the moment."""
    number = next(one["id"] for one in config_of(address)["dependencies"] if one["api_name"] == "look")
    body = {"data": [None, -1], "fn_index": number, "session_hash": "a test"}
    return httpx.post(f"{address}/gradio_api/run/predict", json=body).text


def test_a_signal_right_after_the_start_ends_it_too(folder: Path) -> None:
    program = Program("--config", str(folder), "--port", str(free_port()))
    program.wait_until_up()
    begun = time.monotonic()
    assert program.stop() == 0
    assert time.monotonic() - begun < END_SECONDS


def test_an_unknown_model_is_refused_with_the_nearest_name(folder: Path) -> None:
    program = Program("--config", str(folder), "--port", str(free_port()), "--model", "ehco")
    assert program.ended() == 2
    assert program.output == "Unknown model 'ehco'. Did you mean 'echo'?\n"


def test_a_default_model_that_is_gone_does_not_stop_the_start(folder: Path) -> None:
    (folder / "settings.yaml").write_text("default_model: gone\n", "utf-8")
    with started("--config", str(folder), "--port", str(free_port())) as program:
        assert "Unknown model 'gone'" in program.wait_for("gone was not loaded")
        assert httpx.get(program.wait_until_up()).status_code == 200


def test_gradios_variables_change_nothing(folder: Path) -> None:
    port = free_port()
    with started("--config", str(folder), "--port", str(port), **OPENING) as program:
        address = program.wait_until_up()
        assert address == f"http://127.0.0.1:{port}"
        assert "Guests" not in program.output and "gradio.live" not in program.output
        assert listening(program) == {("127.0.0.1", port)}
        assert labels(config_of(address)) == ["Chat", *OWNER_TABS]
        assert httpx.get(f"{address}/gradio_api/file=/etc/passwd").status_code == 403
        assert httpx.get(f"{address}/gradio_api/mcp/").status_code == 403


def listening(program: Program) -> set[tuple[str, int]]:
    found = psutil.Process(program.process.pid).net_connections(kind="inet")
    return {tuple(one.laddr) for one in found if one.status == psutil.CONN_LISTEN}


def test_on_a_space_it_serves_guests_on_all_addresses(folder: Path) -> None:
    (folder / "settings.yaml").write_text("default_model: echo\n", "utf-8")
    with started("--config", str(folder), SPACE_ID="someone/llamaforge", SYSTEM="spaces") as program:
        assert ("0.0.0.0", app_module.PORT) in listening(program), "port 7860 is taken: end what uses it"
        config = config_of(f"http://127.0.0.1:{app_module.PORT}")
        assert labels(config) == []
        assert not [name for name in ids(config) if name.startswith(("model-select", "register", "param", "load"))]
        assert "chat-input" in ids(config)
        guest = Guest(f"http://127.0.0.1:{app_module.PORT}")
        until(lambda: "lf-ready" in guest.call("look"))
        assert "Hi" in guest.join("chat", "Hi")


def test_another_host_is_public(folder: Path) -> None:
    with started("--config", str(folder), "--host", "0.0.0.0", "--port", str(free_port())) as program:
        config = config_of(program.wait_until_up())
        line = program.wait_for("Guests (chat only):  http://")
        assert "localhost" not in line and "0.0.0.0" not in line
        assert labels(config) == []


@pytest.mark.parametrize("password", ["", "short", "aaaaaaaaaaaaaaaa"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_weak_passphrase_is_refused(folder: Path, password: str, host: str) -> None:
    flags = ("--config", str(folder), "--host", host, "--port", str(free_port()))
    program = Program(*flags, env={OWNER_PASSWORD: password})
    assert program.ended() == 2
    assert program.output.startswith("LLAMAFORGE_OWNER_PASSWORD is too weak") and "Traceback" not in program.output


def test_what_speaks_against_sharing_stops_it_unless_forced(folder: Path) -> None:
    (folder / "settings.yaml").write_text("guests: 5\n", "utf-8")
    flags = ("--config", str(folder), "--host", "0.0.0.0", "--port", str(free_port()))
    program = Program(*flags)
    assert program.ended() == 2
    assert "STOP: The limits for guests cannot be read" in program.output
    assert "Not shared. Mend what is marked STOP, or start with --force." in program.output
    with started(*flags, "--force") as forced:
        forced.wait_for("Guests (chat only):")


def test_a_passphrase_is_made_up_for_a_terminal_only(folder: Path) -> None:
    flags = ("--config", str(folder), "--host", "0.0.0.0", "--port", str(free_port()))
    with started(*flags) as program:
        program.wait_for("Nobody can log in as the owner: for that, set LLAMAFORGE_OWNER_PASSWORD and start again.")
        assert "passphrase:" not in program.output
    with in_a_terminal(*flags) as said:
        line = next(line for line in said() if "passphrase: " in line)
        passphrase = line.rsplit(" ", 1)[1]
        answer = httpx.post(f"http://127.0.0.1:{flags[-1]}/owner", data={"passphrase": passphrase})
        assert (answer.status_code, answer.headers["location"]) == (303, "/owner/")


def test_neither_a_start_nor_a_chat_imports_an_engine_or_pandas(folder: Path) -> None:
    path = write_tiny_gguf(folder / "tiny.gguf")
    (folder / "models" / "tiny.yaml").write_text(f"backend: llama.cpp\npath: {path}\n", "utf-8")
    flags = ("--config", str(folder), "--port", str(free_port()), "--model", "echo")
    with started(*flags, PYTHONPROFILEIMPORTTIME="1") as program:
        job = ask_when_loaded(program.wait_until_up(), "Hi")
        assert job.result(timeout=30) == "Hi"
    imported = {line.rsplit("|", 1)[1].strip() for line in program.output.splitlines() if "import time:" in line}
    assert "llamaforge_ui" in imported
    assert imported & {*ENGINES, "pandas.core"} == set()


WAITING = """
import urllib.request
from pathlib import Path
from llamaforge import BaseBackend, register_backend

class Waiting(BaseBackend):
    def load_model(self, model_path, parameters=None):
        folder = Path(model_path)
        with urllib.request.urlopen((folder / "address").read_text()) as page:
            (folder / "seen").write_text(str(page.status))
        (folder / "pipe").read_text()  # until somebody closes its other end

    def is_model_loaded(self):
        return True

    def generate_stream(self, prompt, parameters=None):
        yield "Here"

register_backend("waiting", "waiting:Waiting")
"""


def test_the_page_answers_before_the_default_model_begins_to_load_and_while_it_does(folder: Path) -> None:
    (folder / "plugins").mkdir()
    (folder / "plugins" / "waiting.py").write_text(WAITING, "utf-8")
    (folder / "settings.yaml").write_text("plugins: [waiting]\ndefault_model: slow\n", "utf-8")
    (folder / "models" / "slow.yaml").write_text(f"backend: waiting\npath: {folder}\n", "utf-8")
    os.mkfifo(folder / "pipe")
    port = free_port()
    (folder / "address").write_text(f"http://127.0.0.1:{port}", "utf-8")
    with started("--config", str(folder), "--port", str(port)) as program:
        address = program.wait_until_up()
        end = when_read(folder / "pipe")
        assert (folder / "seen").read_text("utf-8") == "200"  # the first thing that the load did
        assert httpx.get(address).status_code == 200
        assert "lf-loading" in status_of(address)
        os.close(end)
        until(lambda: "lf-ready" in status_of(address))


def when_read(pipe: Path) -> int:
    """Wait until somebody reads a named pipe; return its other end."""
    ends: list[int] = []

    def opened() -> bool:
        with contextlib.suppress(OSError):  # nobody reads it yet
            ends.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(ends)

    until(opened)
    return ends[0]


@contextlib.contextmanager
def in_a_terminal(*flags: str) -> Iterator[Callable[[], Iterator[str]]]:
    """Run the app at a terminal of its own; what is given reads its lines."""
    master, slave = pty.openpty()
    with os.fdopen(master, "rb", buffering=0) as terminal:
        process = subprocess.Popen([sys.executable, "app.py", *flags], cwd=ROOT, stdout=slave, stderr=slave)
        os.close(slave)

        def lines() -> Iterator[str]:
            said = b""
            with contextlib.suppress(OSError):  # what a terminal says once nobody writes to it
                while piece := terminal.read(4096):
                    *whole, said = (said + piece).split(b"\n")
                    yield from (line.decode().rstrip() for line in whole)

        try:
            yield lines
        finally:
            process.terminate()
            assert process.wait(30) == 0


@pytest.mark.parametrize("works", [True, False], ids=["works", "fails"])
def test_a_share_link_is_told_or_its_failure(folder: Path, tmp_path: Path, works: bool) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(TUNNEL if works else NO_TUNNEL, "utf-8")
    flags = ("--config", str(folder), "--share", "--port", str(free_port()), "--model", "echo")
    with started(*flags, PYTHONPATH=str(tmp_path / "site"), **{OWNER_PASSWORD: "kite-marble-seven-orbit"}) as program:
        here = f"http://127.0.0.1:{flags[4]}"
        line = program.wait_for("Guests (chat only):")
        assert "passphrase: what LLAMAFORGE_OWNER_PASSWORD holds" in program.output
        assert "kite-marble" not in program.output
        answers = {
            host: httpx.get(here, headers={"Host": host}).status_code for host in ("a.gradio.live", "b.example")
        }
        assert httpx.get(f"{here}/owner/config").status_code == 403  # a stranger comes from 127.0.0.1 too
        if works:
            assert line.endswith("https://a.gradio.live")
            assert "Share links pass through Gradio's servers" in program.wait_for("Share links")
            assert answers == {"a.gradio.live": 200, "b.example": 403}
        else:
            assert "No share link could be made. LlamaForge still runs at" in program.output
            assert "gradio.live" not in line and answers["b.example"] == 403


def test_without_llama_cpp_python_the_page_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_LLAMA_CPP, "utf-8")
    (tmp_path / "models").mkdir()
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "models" / "tiny.yaml").write_text(f"backend: llama.cpp\npath: {path}\n", "utf-8")
    flags = ("--config", str(tmp_path), "--port", str(free_port()), "--model", "tiny")
    with started(*flags, PYTHONPATH=str(tmp_path / "site")) as program:
        line = program.wait_for("tiny was not loaded")
        assert "pip install" in line
        assert labels(config_of(program.wait_until_up())) == ["Chat", *OWNER_TABS]


def test_a_gradio_that_is_too_old_is_refused_with_the_install_line(folder: Path, tmp_path: Path) -> None:
    claim_version(tmp_path / "site", "gradio", "5.49.1")
    flags = ("--config", str(folder), "--port", str(free_port()))
    program = Program(*flags, env={"PYTHONPATH": str(tmp_path / "site")})
    assert program.ended() == 2
    assert program.output == "gradio 5.49.1 is too old. Update it: pip install -U 'gradio>=6.31'\n"


def test_it_serves_and_answers_where_no_file_can_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_FILE_MAY_GROW, "utf-8")
    flags = ("--config", str(folder), "--port", str(free_port()), "--model", "echo")
    with started(*flags, PYTHONPATH=str(tmp_path / "site")) as program:
        assert ask_when_loaded(program.wait_until_up(), "Still here").result(timeout=30) == "Still here"
    assert "Traceback" not in program.output


FOUR_METHODS = """
from llamaforge.backends.base import BaseBackend
from llamaforge.backends import register_backend

class MyCustomBackend(BaseBackend):
    def load_model(self, model_path, parameters=None): ...
    def generate(self, prompt, parameters=None): ...
    def generate_stream(self, prompt, parameters=None): yield "Streaming response"
    def is_model_loaded(self): return True

register_backend("my_custom", MyCustomBackend)
"""


def test_a_custom_backend_of_four_methods_answers_on_the_page(folder: Path) -> None:
    (folder / "plugins").mkdir()
    (folder / "plugins" / "my_plugin.py").write_text(FOUR_METHODS, "utf-8")
    (folder / "settings.yaml").write_text("plugins: [my_plugin, gone]\n", "utf-8")
    (folder / "models" / "mine.yaml").write_text("backend: my_custom\npath: anywhere\n", "utf-8")
    with started("--config", str(folder), "--port", str(free_port()), "--model", "mine") as program:
        answer = ask_when_loaded(program.wait_until_up(), "Hi").result(timeout=30)
        assert answer == "Streaming response"
        assert "Plugins: my_plugin" in program.output and "Plugin 'gone' was not found." in program.output


@pytest.mark.parametrize(
    ("flags", "allowed"),
    [((), False), (("--allow-remote-code",), True), (("--allow-remote-code", "--host", "0.0.0.0", "--force"), False)],
    ids=["by default", "by flag", "when shared"],
)
def test_a_models_own_code_needs_the_flag_and_a_page_that_nobody_shares(
    folder: Path, tmp_path: Path, flags: tuple[str, ...], allowed: bool
) -> None:
    model = write_own_code(tmp_path / "own")
    text = f"backend: huggingface\npath: {model}\nparameters:\n  trust_remote_code: true\n"
    (folder / "models" / "own.yaml").write_text(text, "utf-8")
    with started("--config", str(folder), "--port", str(free_port()), "--model", "own", *flags) as program:
        line = program.wait_for("own was not loaded")
    assert ("is set to run its own Python code (trust_remote_code)" in line) is not allowed
    assert (tmp_path / "canary").exists() is allowed


def write_own_code(folder: Path) -> Path:
    """Write a model of a type that only its own code knows; the code leaves a file behind, and is no model."""
    write_tiny_hf(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own_code.Config"}}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "own_code.py").write_text(f"open({str(folder.parent / 'canary')!r}, 'w').close()\n", "utf-8")
    return folder


@pytest.mark.parametrize("kind", ["missing", "empty", "broken", "a file"])
def test_it_starts_whatever_the_config_folder_is_like(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "config"
    if kind == "a file":
        folder.write_text("not a folder\n", "utf-8")
    elif kind != "missing":
        (folder / "models").mkdir(parents=True)
    if kind == "broken":
        (folder / "settings.yaml").write_text("default_model: [\n", "utf-8")
        (folder / "models" / "broken.yaml").write_bytes(b"\xff\xfe\x00 [[[")
    with started("--config", str(folder), "--port", str(free_port())) as program:
        assert labels(config_of(program.wait_until_up())) == ["Chat", *OWNER_TABS]


def test_the_config_folder_may_come_from_a_variable(folder: Path) -> None:
    with started("--port", str(free_port()), "--model", "echo", LLAMAFORGE_CONFIG=str(folder)) as program:
        assert httpx.get(program.wait_until_up()).status_code == 200
    assert "Unknown model" not in program.output


def test_the_flag_wins_over_the_variable(folder: Path, tmp_path: Path) -> None:
    flags = ("--config", str(tmp_path / "other"), "--port", str(free_port()), "--model", "echo")
    program = Program(*flags, env={"LLAMAFORGE_CONFIG": str(folder)})
    assert program.ended() == 2
    assert "No model is registered yet." in program.output


def front_matter() -> dict[str, Any]:
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.startswith("---\n"), "README.md must begin with the Space's settings"
    settings: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return settings


def test_the_readme_begins_with_what_a_space_needs() -> None:
    settings = front_matter()
    expected = {"sdk": "gradio", "python_version": "3.11", "app_file": "app.py", "license": "mit"}
    assert {name: settings.get(name) for name in expected} == expected
    assert settings["title"] and settings["startup_duration_timeout"]
    assert len(settings.get("short_description", "")) <= 60


def test_the_space_runs_the_gradio_that_is_pinned() -> None:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert f"gradio=={front_matter()['sdk_version']}" in [line.split("#")[0].strip() for line in lines]


def test_what_a_space_compiles_with_is_listed() -> None:
    packages = (ROOT / "packages.txt").read_text("utf-8").split()
    assert {"build-essential", "cmake"} <= set(packages)


def test_the_licence_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["license"] == "MIT"
    assert "Permission is hereby granted, free of charge" in (ROOT / "LICENSE").read_text("utf-8")
