"""The models known and the one model loaded: registering, loading, swapping, unloading, and what is told of it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from scripted import PATIENCE, ScriptedBackend, until
from tiny_gguf import COUNTING_ANSWER, DEFAULT_ANSWER

from llamaforge import (
    BackendError,
    BaseBackend,
    ConfigError,
    LlamaForge,
    LoadSuperseded,
    ModelFileError,
    NoModelLoaded,
    ParameterError,
    Status,
    register_backend,
)

Forge = Callable[..., LlamaForge]


class Gated(BaseBackend):
    """A backend whose load waits for the test."""

    entered: threading.Event
    gate: threading.Event

    def load_model(self, model_path: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.entered.set()
        assert self.gate.wait(PATIENCE)

    def generate_stream(self, prompt: str, parameters: Mapping[str, Any] | None = None) -> Iterator[str]:
        yield "gated"

    def is_model_loaded(self) -> bool:
        return True


@pytest.fixture
def gated() -> type[Gated]:
    Gated.entered, Gated.gate = threading.Event(), threading.Event()
    register_backend("gated", Gated)
    return Gated


def failure_of(call: Callable[..., object], *arguments: Any) -> str:
    with pytest.raises(Exception) as caught:
        call(*arguments)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_nothing_is_loaded_at_first(forge: Forge) -> None:
    status = forge().status
    assert (status.state, status.model, status.error) == ("empty", None, None)


def test_a_loaded_model_is_told_of(forge: Forge, tiny_gguf: Path) -> None:
    loaded = forge(tiny=tiny_gguf)
    loaded.load_model("tiny")
    status = loaded.status
    assert (status.state, status.model, status.backend) == ("ready", "tiny", "llama.cpp")
    assert (status.context_window, status.error) == (2048, None)
    assert status.load_seconds is not None and status.load_seconds > 0 and status.since > 0
    assert status.summary[0] == "5.8 MB" and "2,048 tokens" in status.summary


def test_another_model_takes_the_place_of_the_loaded_one(forge: Forge, tiny_gguf: Path, endless_gguf: Path) -> None:
    swapped = forge(tiny=tiny_gguf, endless=endless_gguf)
    swapped.load_model("tiny")
    swapped.load_model("endless")
    assert swapped.generate("hi", {"max_tokens": 10}) == COUNTING_ANSWER
    swapped.load_model("tiny")
    assert swapped.generate("hi") == DEFAULT_ANSWER


def test_unloading_leaves_nothing_that_answers(forge: Forge, tiny_gguf: Path) -> None:
    loaded = forge(tiny=tiny_gguf)
    loaded.load_model("tiny")
    loaded.unload_model()
    assert loaded.status.state == "empty"
    with pytest.raises(NoModelLoaded, match="No model is loaded. Choose one and press Load."):
        loaded.generate("hi")


def test_unloading_twice_or_nothing_is_harmless(forge: Forge) -> None:
    empty = forge()
    empty.unload_model()
    empty.unload_model()
    assert empty.status.state == "empty"


def test_unloading_stops_the_running_answer_and_keeps_its_text(forge: Forge, endless_gguf: Path) -> None:
    loaded = forge(endless=endless_gguf)
    loaded.load_model("endless")
    answer = loaded.generate_stream("hi")
    first = next(pieces := iter(answer))
    loaded.unload_model()
    result = answer.wait(PATIENCE)
    assert result is not None and result.finish_reason == "cancelled"
    assert result.text.startswith(first) and list(pieces)[-1:] in ([], [result.text.split()[-1] + " "])


def test_an_unknown_model_is_answered_with_the_nearest(forge: Forge, tiny_gguf: Path) -> None:
    empty = forge()
    assert failure_of(empty.load_model, "a") == "ModelError: Unknown model 'a'. No model is registered yet."
    known = forge(tiny=tiny_gguf, other=tiny_gguf)
    for call in (known.load_model, known.model, known.card, known.check_model, known.remove_model, known.settings_of):
        assert failure_of(call, "tinny") == "ModelError: Unknown model 'tinny'. Did you mean 'tiny'?"
    assert failure_of(known.load_model, "x") == "ModelError: Unknown model 'x'. Known: other, tiny."


def test_models_are_listed_by_name_whatever_their_case(forge: Forge) -> None:
    known = forge()
    for name in ("b", "C", "a"):
        known.add_model(name, "x", "echo")
    assert [model.name for model in known.models()] == ["a", "b", "C"]


def test_adding_a_model_twice_replaces_it(forge: Forge) -> None:
    known = forge()
    known.add_model("a", "x", "echo", {"max_tokens": 1}, "old")
    known.add_model("a", "y", "echo")
    (model,) = known.models()
    assert (model.path, model.parameters, model.description) == ("y", {}, "")


@pytest.mark.parametrize(
    ("name", "backend", "parameters", "error"),
    [
        ("../x", "echo", {}, ConfigError),
        ("a", "ecko", {}, BackendError),
        ("a", "echo", {"max_tokens": 0}, ParameterError),
    ],
    ids=["name", "backend", "parameter"],
)
def test_a_wrong_model_is_not_added(
    forge: Forge, name: str, backend: str, parameters: dict[str, Any], error: type[Exception]
) -> None:
    known = forge()
    with pytest.raises(error):
        known.add_model(name, "x", backend, parameters)
    assert known.models() == []


def test_a_removed_model_stays_loaded_until_it_is_unloaded(forge: Forge) -> None:
    loaded = forge()
    loaded.add_model("a", "x", "echo")
    loaded.load_model("a")
    loaded.remove_model("a")
    assert loaded.models() == [] and loaded.generate("hi") == "hi"


def test_a_check_that_fails_leaves_the_loaded_model(forge: Forge, tiny_gguf: Path, tmp_path: Path) -> None:
    loaded = forge(tiny=tiny_gguf, gone=tmp_path / "gone.gguf", folder=tmp_path)
    loaded.load_model("tiny")
    for name, words in (("gone", "File not found: gone.gguf"), ("folder", "is a folder"), ("none", "Unknown model")):
        assert words in failure_of(loaded.load_model, name)
        assert (loaded.status.state, loaded.status.model) == ("ready", "tiny")
        assert words in str(loaded.status.error)
    assert loaded.generate("hi") == DEFAULT_ANSWER


def test_a_model_with_a_problem_is_not_loaded_and_says_why(forge: Forge, tmp_path: Path) -> None:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    (tmp_path / "configs" / "models" / "a.yaml").write_text("backend: echo\npath: x\nparameters:\n  max_tokns: 1\n")
    with pytest.raises(ConfigError, match="models/a.yaml line 4: Unknown setting 'max_tokns'. Did you mean"):
        forge().load_model("a")


def test_a_load_that_fails_leaves_nothing_and_says_why(forge: Forge) -> None:
    class Failing(ScriptedBackend):
        def load_model(self, model_path: str, parameters: Mapping[str, Any] | None = None) -> None:
            raise OSError("disk on fire")

    register_backend("failing", Failing)
    loaded = forge()
    for name, backend in (("good", "echo"), ("bad", "failing")):
        loaded.add_model(name, "x", backend)
    loaded.load_model("good")
    assert failure_of(loaded.load_model, "bad") == "ModelError: Loading 'bad' failed: OSError: disk on fire"
    assert (loaded.status.state, str(loaded.status.error)) == ("empty", "Loading 'bad' failed: OSError: disk on fire")
    loaded.load_model("good")
    assert (loaded.generate("hi"), loaded.status.error) == ("hi", None)


def test_a_backend_that_cannot_even_be_made_is_a_sentence(forge: Forge) -> None:
    class Unmade(ScriptedBackend):
        def __init__(self) -> None:
            raise KeyError("no")

    register_backend("unmade", Unmade)
    loaded = forge()
    loaded.add_model("a", "x", "unmade")
    assert failure_of(loaded.load_model, "a") == "ModelError: Loading 'a' failed: KeyError: 'no'"
    assert loaded.status.state == "empty"


def test_ctrl_c_while_a_model_loads_is_ctrl_c(forge: Forge) -> None:
    class Interrupted(ScriptedBackend):
        def load_model(self, model_path: str, parameters: Mapping[str, Any] | None = None) -> None:
            raise KeyboardInterrupt

    register_backend("interrupted", Interrupted)
    loaded = forge()
    loaded.add_model("a", "x", "interrupted")
    with pytest.raises(KeyboardInterrupt):
        loaded.load_model("a")
    assert loaded.status.state == "empty"


def test_an_error_is_not_its_own_cause(forge: Forge) -> None:
    class Refusing(ScriptedBackend):
        def load_model(self, model_path: str, parameters: Mapping[str, Any] | None = None) -> None:
            raise ModelFileError("no")

    register_backend("refusing", Refusing)
    loaded = forge()
    loaded.add_model("a", "x", "refusing")
    with pytest.raises(ModelFileError, match="^no$") as caught:
        loaded.load_model("a")
    assert caught.value.__cause__ is None


def test_a_newer_load_wins_over_one_that_still_runs(forge: Forge, gated: type[Gated]) -> None:
    loaded = forge()
    for name, backend in (("slow", "gated"), ("fast", "echo")):
        loaded.add_model(name, "x", backend)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(loaded.load_model, "slow")
        assert gated.entered.wait(PATIENCE) and loaded.status.state == "loading"
        fast = pool.submit(loaded.load_model, "fast")
        until(lambda: loaded._command == 2)
        gated.gate.set()
        assert isinstance(slow.exception(PATIENCE), LoadSuperseded) and fast.result(PATIENCE) is None
    assert (loaded.status.state, loaded.status.model, loaded.status.error) == ("ready", "fast", None)


def test_unload_wins_over_a_load_that_still_runs(forge: Forge, gated: type[Gated]) -> None:
    loaded = forge()
    loaded.add_model("slow", "x", "gated")
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(loaded.load_model, "slow")
        assert gated.entered.wait(PATIENCE)
        unload = pool.submit(loaded.unload_model)
        until(lambda: loaded._command == 2)
        gated.gate.set()
        assert isinstance(slow.exception(PATIENCE), LoadSuperseded) and unload.result(PATIENCE) is None
    assert (loaded.status.state, loaded.status.error) == ("empty", None)


def test_an_older_unload_does_not_undo_a_newer_load(forge: Forge) -> None:
    """Whoever waits for the lock is woken in no certain order."""
    loaded = forge()
    loaded.add_model("a", "x", "echo")
    with ThreadPoolExecutor() as pool:
        for commands in range(2, 62, 2):
            with loaded._swap:
                unload = pool.submit(loaded.unload_model)
                until(lambda: loaded._command == commands - 1)  # noqa: B023 - called at once
                load = pool.submit(loaded.load_model, "a")
                until(lambda: loaded._command == commands)  # noqa: B023
            assert (unload.result(PATIENCE), load.result(PATIENCE)) == (None, None)
            assert loaded.status.state == "ready"


def test_many_commands_at_once_leave_one_engine(forge: Forge) -> None:
    loaded = forge()
    for name in ("a", "b", "last"):
        loaded.add_model(name, "x", "echo")
    commands = [lambda: loaded.load_model("a"), lambda: loaded.load_model("b"), loaded.unload_model]
    with ThreadPoolExecutor(max_workers=4) as pool:
        for command in commands * 10:
            pool.submit(command)
    loaded.load_model("last")
    assert (loaded.status.model, loaded.generate("hi")) == ("last", "hi")
    assert len([thread for thread in threading.enumerate() if thread.name == "llamaforge-engine"]) == 1


def test_the_version_grows_with_every_change(forge: Forge) -> None:
    loaded = forge()
    versions = [loaded.status.version]
    steps: list[Callable[[], object]] = [
        lambda: loaded.add_model("a", "x", "echo"),
        lambda: loaded.load_model("a"),
        lambda: failure_of(loaded.load_model, "b"),
        loaded.changed,
        loaded.unload_model,
        lambda: loaded.remove_model("a"),
    ]
    for step in steps:
        step()
        versions.append(loaded.status.version)
    assert versions == sorted(set(versions))


def test_telling_of_a_change_never_brings_an_old_status_back(forge: Forge) -> None:
    class LateLock(AbstractContextManager[None]):
        """Lets another thread publish just before this one has the lock."""

        def __enter__(self) -> None:
            told._status = Status("ready")

        def __exit__(self, *error: object) -> None: ...

    told: Any = forge()
    told._state = LateLock()
    told.changed()
    assert told.status.state == "ready"


def test_loading_another_model_does_not_need_the_old_ones_file(forge: Forge, tiny_gguf: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(tiny_gguf.read_bytes())
    loaded = forge(copy=copy, tiny=tiny_gguf)
    loaded.load_model("copy")
    copy.unlink()
    loaded.load_model("tiny")
    assert loaded.generate("hi") == DEFAULT_ANSWER


def test_a_forge_that_nobody_holds_ends_its_engine(forge: Forge, tmp_path: Path) -> None:
    register_backend("scripted", ScriptedBackend)
    lost = LlamaForge(tmp_path / "configs")
    lost.add_model("a", "x", "scripted")
    lost.load_model("a")
    engine = lost._engine
    assert engine is not None
    del lost
    assert not any(thread.is_alive() for thread in engine._threads)


def test_a_forge_freed_by_its_own_engines_thread_ends_it_too(tmp_path: Path) -> None:
    class Collecting(ScriptedBackend):
        def generate_stream(self, prompt: str, parameters: Mapping[str, Any] | None = None) -> Iterator[str]:
            self.words.get(timeout=PATIENCE)
            gc.collect()
            yield "still here"

    register_backend("collecting", Collecting)
    lost: Any = LlamaForge(tmp_path / "configs")
    lost.add_model("a", "x", "collecting")
    lost.load_model("a")
    engine, answer, lost.itself = lost._engine, lost.generate_stream("hi"), lost
    del lost
    engine.backend.words.put("go")
    assert answer.wait(PATIENCE) is not None and engine.backend.unloaded.wait(PATIENCE)
