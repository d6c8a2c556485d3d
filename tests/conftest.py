"""What every test stands on: real tiny models, a config folder of its own, no network, no LLAMAFORGE_* variables.

And secrets in the environment, which are nowhere else when all tests are done.
"""

from __future__ import annotations

import gc
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import canary_kit  # first of ours: it sets the secrets
import pytest
from hub_stand_in import Hub, hub_stand_in
from openai_kit import backend, canary, connect, server  # noqa: F401 - fixtures
from tiny_gguf import COUNTING_ANSWER, write_tiny_gguf

from llamaforge import LlamaForge, backends, plugins, redaction

SCREENSHOTS = Path(__file__).parent / "screenshots"
CANARY_PLACES = pytest.StashKey[list[str]]()
ONE_THREAD = {"n_threads": 1}  # llama.cpp's threads spin, so more of them than free cores cost seconds


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where a canary came out: into a file, the output of a program, an answer or a page."""
    factory: pytest.TempPathFactory = session.config._tmp_path_factory  # type: ignore[attr-defined]
    folders = [SCREENSHOTS, *([factory._basetemp] if factory._basetemp else [])]
    places = [*canary_kit.found, *(file for folder in folders for file in canary_kit.files_with_canaries(folder))]
    if places:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        session.config.stash[CANARY_PLACES] = places


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for place in config.stash.get(CANARY_PLACES, []):
        terminalreporter.write_line(f"FAILED A secret of the environment came out: {place}", red=True)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="session")
def tiny_gguf(model_folder: Path) -> Path:
    """A model that says DEFAULT_ANSWER to everything."""
    return write_tiny_gguf(model_folder / "tiny.gguf")


@pytest.fixture(scope="session")
def endless_gguf(model_folder: Path) -> Path:
    """A model that counts to ten for ever."""
    return write_tiny_gguf(model_folder / "endless.gguf", COUNTING_ANSWER, endless=True, n_ctx_train=8192)


@pytest.fixture(scope="session")
def slow_gguf(model_folder: Path) -> Path:
    """A model that takes about 2.5 s for a prompt of 3,000 tokens."""
    return write_tiny_gguf(model_folder / "slow.gguf", layers=8, n_ctx_train=8192)


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Callable[..., LlamaForge]]:
    """Make a LlamaForge on a config folder of this test, with GGUF models by name; it is unloaded at the end."""
    forges: list[LlamaForge] = []

    def make(**models: Path) -> LlamaForge:
        forges.append(LlamaForge(tmp_path / "configs"))
        for name, path in models.items():
            forges[-1].add_model(name, str(path), "llama.cpp", ONE_THREAD)
        return forges[-1]

    yield make
    for made in forges:
        made.unload_model()


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[LlamaForge]:
    """A model that says one's own words, loaded."""
    forge = LlamaForge(tmp_path)
    forge.add_model("echo", "echo", "echo")
    forge.load_model("echo")
    yield forge
    forge.unload_model()


@pytest.fixture
def load(forge: Callable[..., LlamaForge]) -> Callable[..., LlamaForge]:
    """Load one GGUF file and return the LlamaForge that holds it."""

    def load_file(path: Path, **parameters: Any) -> LlamaForge:
        loaded = forge(model=path)
        loaded.load_model("model", parameters)
        return loaded

    return load_file


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub, with a cache of this test's own and nothing of the person's settings."""
    from huggingface_hub.utils import close_session  # here: few tests need it

    from llamaforge import hub_download

    for name in list(os.environ):
        if name.startswith("HF_") or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(hub_download, "PAUSE", 0.0)
    with hub_stand_in() as stand_in:
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
        yield stand_in
    close_session()


@pytest.fixture
def tiny_in_hub(hub_server: Hub, tiny_gguf: Path) -> bytes:
    """The server has one repository with the tiny model and a README."""
    hub_server.files["forge/tiny"] = {"README.md": b"# tiny", "tiny.gguf": tiny_gguf.read_bytes()}
    return hub_server.files["forge/tiny"]["tiny.gguf"]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the person who runs the tests gets in, neither variables nor their own config folder."""
    for name in list(os.environ):
        if name.startswith("LLAMAFORGE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user-config"))


@pytest.fixture(autouse=True)
def registry_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends and plugins that a test registers are gone after it."""
    for room in (backends, plugins):
        monkeypatch.setattr(room, "_registry", dict(room._registry))


@pytest.fixture(autouse=True)
def no_key_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that a test's models hold are hidden in that test alone."""
    monkeypatch.setattr(redaction, "_noted", set())


@pytest.fixture
def no_leftovers() -> Iterator[None]:
    """Collect what Gradio leaves to the garbage collector, so that it does not warn in a test of something else."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session", autouse=True)
def no_network_beyond_loopback() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, _loopback_only(getattr(socket.socket, name), address_at=-1))
        patch.setattr(socket, "getaddrinfo", _loopback_only(socket.getaddrinfo, address_at=0))
        yield


def _loopback_only(call: Callable[..., Any], *, address_at: int) -> Callable[..., Any]:
    def checked(*arguments: Any, **named: Any) -> Any:
        address = arguments[address_at]
        host = address[0] if isinstance(address, tuple) else address
        inside = (None, "", "localhost", "::1", "::", "0.0.0.0", socket.gethostname())
        name = host.decode() if isinstance(host, bytes) else host
        if name not in inside and not str(name).startswith(("127.", "/", "\0")):
            raise RuntimeError(f"a test wanted to reach {name!r}: tests stay on this machine")
        return call(*arguments, **named)

    return checked
