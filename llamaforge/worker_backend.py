"""The parent's side of worker.py: a backend in a child process, behind the interface of a near one.

A native crash, an out-of-memory kill or a stuck load ends the child and not the program, a load can be given up, and
unloading gives every byte back. Parent and child speak in lines of JSON over the child's pipes. Nothing here waits for
the child without an end: a thread of its own writes to it, since a frozen process takes no more than a pipe holds.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import queue
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import psutil

from . import errors
from .backends.base import BaseBackend
from .errors import GenerationError, LlamaForgeError, ModelError
from .redaction import hide_secrets
from .types import Chunk, LoadProgress, MemoryNeed, Message, ModelCard, Prompt, Usage
from .worker import LONGEST_LINE, line_of

STOP_PATIENCE = 1.5  # seconds from Stop to SIGKILL
STUCK_CHECK = 0.25
ASIDE_PATIENCE = 2.0
HANG_PATIENCE = 10.0  # seconds without a heartbeat
REVIVALS = 2
REVIVAL_WINDOW = 600.0
STDERR_LINES = 200
LONGEST_STDERR_LINE = 4096

# What a child may know of the environment: no key, no token, no password.
ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "USERPROFILE", "VIRTUAL_ENV")
ENVIRONMENT_PREFIXES = ("CUDA_", "NVIDIA_", "HIP_", "ROCR_", "GGML_", "LLAMA_CPP_", "OMP_", "LD_LIBRARY_", "DYLD_")
SECRETS = ("KEY", "TOKEN", "SECRET", "PASSWORD")  # NVIDIA_API_KEY begins like a setting
# How to reach the Hugging Face Hub; one that holds a password ("http://me:secret@proxy") stays here.
HUB_ENVIRONMENT = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET", "XDG_CACHE_HOME")
CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class WorkerBackend(BaseBackend):
    """Runs a backend in a child process.

    Args:
        place: where the child finds the backend: "module:Class".
        near: an instance in this process, which checks and describes without loading anything.
        on_lost: called when the child died and no new one could be started.
    """

    def __init__(self, place: str, near: BaseBackend, on_lost: Callable[[], None] = lambda: None) -> None:
        self._place = place
        self._near = near
        self.reads_beside = near.reads_beside
        # Weakly, where it is a method: nobody can let go of a LlamaForge that its own backend holds.
        self._on_lost = weakref.WeakMethod(on_lost) if inspect.ismethod(on_lost) else lambda: on_lost
        self._child: Child | None = None
        self._model: tuple[str, dict[str, Any]] | None = None
        self._facts: dict[str, Any] = {}
        self._stopped_at: float | None = None
        self._loading = False
        self._crashed: deque[float] = deque(maxlen=REVIVALS)

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none."""
        return self._child.process.pid if self._child is not None else None

    def check(self, path: str, parameters: Mapping[str, Any]) -> None:
        self._near.check(path, parameters)

    def describe(self, path: str) -> ModelCard:
        return self._near.describe(path)

    def memory_needed(self, path: str, parameters: Mapping[str, Any]) -> MemoryNeed | None:
        return self._near.memory_needed(path, parameters)

    def load_model(self, model_path: str, parameters: Mapping[str, Any] | None = None) -> None:
        model = (model_path, dict(parameters or {}))
        self._load(*model)
        self._model = model

    def is_model_loaded(self) -> bool:
        return self._model is not None

    def unload_model(self) -> None:
        self._model = None
        self._end_child()
        self._stopped_at = None

    def stop(self) -> None:
        self._stopped_at = self._stopped_at or time.monotonic()
        child = self._child
        if child is None:
            return
        if self._loading:
            child.kill()  # a load has no other way to end early
        else:
            child.stop()

    def generate_stream(self, prompt: str, parameters: Mapping[str, Any] | None = None) -> Iterator[str | Chunk]:
        return self._answer("generate_stream", prompt, dict(parameters or {}))

    def chat_stream(
        self, messages: Sequence[Message], parameters: Mapping[str, Any] | None = None
    ) -> Iterator[str | Chunk]:
        return self._answer("chat_stream", [line_of(message) for message in messages], dict(parameters or {}))

    def generate(self, prompt: str, parameters: Mapping[str, Any] | None = None) -> str:
        return str(_last(self._answer("generate", prompt, dict(parameters or {}))) or "")

    def count_tokens(self, text: str) -> int | None:
        count = self._read("count_tokens", text)
        return count if isinstance(count, int) else None

    def render(self, messages: Sequence[Message]) -> Prompt | None:
        fields = self._read("render", [line_of(message) for message in messages])
        return Prompt(**fields) if fields else None

    def _read(self, method: str, *arguments: Any) -> Any:
        """Ask the child for what it can tell beside a running answer, else in its turn; None where it is gone."""
        child = self._child
        if child is None or not child.alive or self._loading:
            return None
        if self._near.reads_beside:
            return child.aside(method, arguments)
        try:
            return _last(self._stream(method, *arguments))
        except ChildEnded:
            return None  # the next answer starts another

    def summary(self) -> Sequence[str]:
        return tuple(self._facts.get("summary", ()))

    def warnings(self) -> Sequence[str]:
        return tuple(self._facts.get("warnings", ()))

    def memory_used(self) -> int | None:
        """Return the bytes of RAM that the child holds now."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss) if self.pid else None
        except psutil.Error:
            return None

    def load_progress(self) -> LoadProgress | None:
        child = self._child
        return child.load_progress if child is not None else None

    def _load(self, path: str, parameters: dict[str, Any]) -> None:
        self._end_child()
        self._loading = True
        try:
            self._child = Child(self._place, self._near.secrets(path))
            if self._stopped_at is not None:
                self._child.kill()  # told while there was no child to tell
            self._facts = _last(self._stream("load_model", path, parameters))
        except OSError as error:
            raise ModelError(f"A process for the model could not be started: {error}. Try again.") from error
        except ChildEnded as ended:
            if self._stopped_at is not None:
                raise ModelError("Loading was given up.") from ended
            raise ModelError(
                f"The model could not be loaded: {ended.reason} Lower n_ctx or n_gpu_layers, or choose another model.",
                details=ended.details,
            ) from ended
        finally:
            self._loading = False
        self.context_window = self._facts.get("context_window")
        self.sees_images = self._facts.get("sees_images", False)

    def recover(self) -> None:
        """Where the child is gone, start a new one with the same model."""
        self._stopped_at = None  # the answer that was stopped has ended
        self._revive()

    def _revive(self) -> None:
        if self._model is None or (self._child is not None and self._child.alive):
            return
        try:
            self._load(*self._model)
        except LlamaForgeError:
            if self._stopped_at is None:  # else it was told to stop, to be unloaded or for the next answer to begin
                self._lose()

    def _lose(self) -> None:
        """Give the model up and say so."""
        self._model = None
        self._end_child()
        if on_lost := self._on_lost():
            on_lost()

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _answer(self, method: str, *arguments: Any) -> Generator[Chunk, None, Any]:
        """Stream from the child; where it dies, say so unless it was stopped. recover() then starts another."""
        if self._stopped_at is not None:  # the answer before this one was, or this one, which is then told again
            self._stopped_at = None
            yield Chunk()
        try:
            self._revive()  # it may have died while nobody asked anything of it
            if self._stopped_at is None:
                return (yield from self._stream(method, *arguments))
            yield Chunk(finish_reason="cancelled")
        except ChildEnded as ended:
            if self._stopped_at is not None:
                yield Chunk(finish_reason="cancelled")
                return None
            then = "It is being started again: send your message again." if self._may_revive() else "Load it again."
            raise GenerationError(
                f"The model stopped unexpectedly: {ended.reason} {then}", details=ended.details
            ) from ended
        finally:
            self._stopped_at = None

    def _may_revive(self) -> bool:
        """Count a crash; after two in ten minutes the model is given up, so that it does not crash for ever."""
        now = time.monotonic()
        if len(self._crashed) == REVIVALS and now - self._crashed[0] < REVIVAL_WINDOW:
            self._lose()
            return False
        self._crashed.append(now)
        return True

    def _stream(self, method: str, *arguments: Any) -> Generator[Chunk, None, Any]:
        child = self._child
        if child is None:
            raise GenerationError("The model is not running. Load it again.")
        request = child.request(method, arguments)
        finished = False
        try:
            while True:
                reply = child.reply(request, lambda: self._stopped_at)
                if "chunk" in reply:
                    yield _chunk(reply["chunk"])
                    continue
                finished = True
                if "error" in reply:
                    raise _error(reply["error"])
                return reply.get("value")
        except ChildEnded:
            finished = True
            raise
        finally:
            if not finished:
                self._drain(child, request)

    def _drain(self, child: Child, request: int) -> None:
        """Whoever reads has left: stop the child's stream and let its rest pass by, so that the next begins clean."""
        self._stopped_at = self._stopped_at or time.monotonic()
        child.stop()
        try:
            while "chunk" in child.reply(request, lambda: self._stopped_at):
                pass
        except ChildEnded:
            pass  # it did not heed Stop, and recover() starts another


class ChildEnded(Exception):
    """The child is gone, by itself or killed; `details` holds the last lines of its stderr."""

    def __init__(self, reason: str, details: str) -> None:
        self.reason, self.details = reason, details


class Child:
    """The parent's end of one child process."""

    def __init__(self, place: str, secrets: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llamaforge.worker", place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(secrets),
            start_new_session=True,  # Ctrl-C at the terminal is the parent's to handle
        )
        self._inbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._asides: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = {}  # replies that are waited for
        self._aside = threading.Lock()
        self._last_aside = 0
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self.load_progress: LoadProgress | None = None
        self._heard = time.monotonic()
        self._requests = 0
        self._hung = False
        targets = (self._read_replies, self._read_stderr, self._write_calls)
        self._threads = [threading.Thread(target=target, name="llamaforge-worker", daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def request(self, method: str, arguments: Sequence[Any]) -> int:
        self._requests += 1
        self._heard = time.monotonic()
        self.send({"id": self._requests, "call": method, "arguments": list(arguments)})
        return self._requests

    def aside(self, method: str, arguments: Sequence[Any]) -> Any:
        """Return what the child says beside what it is doing; None where it does not in time."""
        answer: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        with self._aside:
            self._last_aside -= 1  # below zero, where no request is
            request = self._last_aside
            self._asides[request] = answer
        try:
            self.send({"id": request, "call": method, "arguments": list(arguments)})
            reply = answer.get(timeout=ASIDE_PATIENCE)
        except queue.Empty:
            return None
        finally:
            del self._asides[request]
        if reply is not None and "error" in reply:
            raise _error(reply["error"])
        return reply.get("value") if reply is not None else None

    def stop(self) -> None:
        """Tell the child to end the stream of its last request."""
        self.send({"id": self._requests, "call": "stop"})

    def send(self, line: dict[str, Any]) -> None:
        raw = json.dumps(line).encode() + b"\n"
        if len(raw) > LONGEST_LINE:
            raise GenerationError("This chat is too long for any model. Start a new chat or shorten the message.")
        self._outbox.put(raw)

    def reply(self, request: int, when_stopped: Callable[[], float | None]) -> dict[str, Any]:
        """Return the next line that answers a request; raise ChildEnded when there will be none."""
        while True:
            stopped_at = when_stopped()
            if stopped_at is not None and time.monotonic() - stopped_at > STOP_PATIENCE:
                self.kill()  # also where it goes on writing
            try:
                line = self._inbox.get(timeout=STUCK_CHECK)
            except queue.Empty:
                if time.monotonic() - self._heard > HANG_PATIENCE:
                    self._hung = True
                    self.kill()
                continue
            if line is None:
                self._inbox.put(None)
                raise self._ended()
            if line.get("id") == request:
                return line

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self.process.kill()

    def end(self) -> None:
        """Close the pipes, which ends the child, and wait until all of its memory is back."""
        self._outbox.put(None)
        self._wait()
        for thread in self._threads:
            thread.join(STOP_PATIENCE)  # a process that the child has left behind may hold the pipes open

    def _wait(self) -> int:
        """Wait for the child's end, but not for ever; return its exit code."""
        try:
            return self.process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.wait()

    def _ended(self) -> ChildEnded:
        code = self._wait()
        self._threads[1].join(STOP_PATIENCE)  # the last lines of stderr tell why
        reason = "it crashed." if code else "it ended."
        if self._hung:
            reason = f"it did not answer for {HANG_PATIENCE:.0f} seconds."
        elif code == -9:
            reason = "the system ended it, most likely because memory ran out."
        return ChildEnded(reason, hide_secrets("\n".join(self._stderr)))

    def _read_replies(self) -> None:
        assert self.process.stdout is not None
        for raw in iter(lambda: self.process.stdout.readline(LONGEST_LINE), b""):  # type: ignore[union-attr]
            self._heard = time.monotonic()
            try:
                line = json.loads(raw)
            except ValueError:
                break  # half a line of a dying child
            if "beat" in line:
                self.load_progress = LoadProgress(**line["load_progress"]) if line["load_progress"] else None
            elif line.get("id", 0) < 0:
                if waiting := self._asides.get(line["id"]):
                    waiting.put(line)
            else:
                self._inbox.put(line)
        self._inbox.put(None)
        self._outbox.put(None)
        for waiting in list(self._asides.values()):
            waiting.put(None)
        self.process.stdout.close()

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for raw in iter(lambda: self.process.stderr.readline(LONGEST_STDERR_LINE), b""):  # type: ignore[union-attr]
            self._stderr.append(raw.decode("utf-8", "replace").rstrip())
        self.process.stderr.close()

    def _write_calls(self) -> None:
        stdin = self.process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError):  # a dead child is noticed where its reply is waited for
            for raw in iter(self._outbox.get, None):
                stdin.write(raw)
                stdin.flush()
        with contextlib.suppress(OSError):
            stdin.close()


def _environment(secrets: Sequence[str] = ()) -> dict[str, str]:
    known = {k: v for k, v in os.environ.items() if k in ENVIRONMENT or k.startswith(ENVIRONMENT_PREFIXES)}
    kept = {k: v for k, v in known.items() if not any(word in k.upper() for word in SECRETS)}
    network = {k: v for k, v in os.environ.items() if k in HUB_ENVIRONMENT + CERTIFICATES or k.upper() in PROXIES}
    kept |= {k: v for k, v in network.items() if "@" not in v}
    kept |= {k: os.environ[k] for k in secrets if k in os.environ}
    # The child imports what this process could import; no debugger at a crash.
    return kept | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path), "GGML_NO_BACKTRACE": "1"}


def _last(stream: Generator[Chunk, None, Any]) -> Any:
    """Return what a stream returns at its end."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


def _chunk(fields: dict[str, Any]) -> Chunk:
    usage = fields.pop("usage", None)
    return Chunk(**fields, usage=Usage(**usage) if usage else None)


def _error(fields: dict[str, Any]) -> LlamaForgeError:
    """Rebuild an error of ours by the name of its class, without running its constructor."""
    kind = getattr(errors, fields["type"], GenerationError)
    error: LlamaForgeError = kind.__new__(kind)
    error.args = (hide_secrets(fields["message"]),)
    error.__dict__.update(fields["attributes"])
    error.details = hide_secrets(error.details)
    return error
