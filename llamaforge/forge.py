"""The models known, the one model loaded, and the way to talk to it."""

from __future__ import annotations

import logging
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .backends import backend_place, get_backend
from .backends.base import BaseBackend, plain_prompt
from .backends.parameters import LARGEST_SEED, describe, unknown_name, validate
from .config import Config, Model
from .engine import Engine
from .errors import (
    BackendError,
    GenerationError,
    LlamaForgeError,
    LoadSuperseded,
    ModelError,
    NoModelLoaded,
    NoVision,
    ParameterError,
)
from .generation import Generation
from .images import require_few_images
from .key_mask import literal_keys
from .memory import find_gpus, format_bytes, measure, verdict
from .overflow import fitting
from .plugins.base import LoadedModel
from .plugins.choice import PluginUse
from .plugins.running import PluginRun
from .precedence import Setting, effective, load_settings, settings_of
from .presets import PresetFit
from .redaction import note
from .text_stream import as_chunks, clean_message, clean_text, ended_by, or_whole, require_text, split_reasoning
from .types import Chunk, LastTokens, LoadProgress, MemoryNeed, Message, ModelCard, Overflow, Prompt

logger = logging.getLogger("llamaforge")

State = Literal["empty", "loading", "ready", "unloading"]
Chat = Sequence[Message | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Status:
    """What is loaded now. `version` grows with every change, so that a page can tell whether to redraw."""

    state: State = "empty"
    model: str | None = None
    backend: str | None = None
    since: float = 0.0
    load_seconds: float | None = None
    context_window: int | None = None
    sees_images: bool = False
    summary: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    error: LlamaForgeError | None = None
    version: int = 0


class LlamaForge:
    """Every model behind one API; one of them is loaded at a time.

    Args:
        config: the config folder; see Config for where it is by default.
        isolate: run local backends in a child process, which the page does: a crash of the engine ends one answer.
        longest_line: how many answers may wait for the running one.
        allow_remote_code: whether a model whose file says `trust_remote_code: true` is loaded.
        allow_literal_keys: whether a model is loaded whose settings hold a key itself, not the name of its variable.
    """

    def __init__(
        self,
        config: str | Path | None = None,
        *,
        isolate: bool = False,
        longest_line: int = 64,
        allow_remote_code: bool = True,
        allow_literal_keys: bool = True,
    ) -> None:
        self.config = Config(config)
        self._isolate = isolate
        self.allow_remote_code = allow_remote_code
        self.allow_literal_keys = allow_literal_keys
        self._longest_line = longest_line
        self._engine: Engine | None = None
        self._loaded: Model | None = None
        self._given: dict[str, Any] = {}  # what the load was called with, over the model's file
        self._defaults: dict[str, Any] = {}  # what it does where nothing is set
        self._loaded_by: tuple[Any, ...] = ()  # everything that made the loaded model what it is
        self._close: weakref.finalize[..., Any] | None = None
        self._status = Status()
        self._state = threading.Lock()  # held for moments: guards status, engine and the last command
        self._swap = threading.Lock()  # held as long as a load or unload takes
        self._command = 0
        self._loading: BaseBackend | None = None
        self._opened_by = 0  # the command that loaded what is loaded
        self._need: MemoryNeed | None = None  # of what is loaded

    # Models

    def add_model(  # noqa: PLR0913 - the keys of a model's file
        self,
        name: str,
        path: str,
        backend: str,
        parameters: Mapping[str, Any] | None = None,
        description: str = "",
        *,
        file: str = "",
        sha256: str = "",
        guests: bool | None = None,
        plugins: Mapping[str, bool | Mapping[str, Any]] | None = None,
        examples: Sequence[str] = (),
    ) -> None:
        """Make a model known, replacing one of the same name; `config.save()` writes it to the config folder.

        Args:
            file: the name or pattern of a GGUF file ("*Q4_K_M.gguf") in path, a Hugging Face repository `owner/name`.
            sha256: what the file's checksum must be.
            guests: whether guests of a shared page may use it; by default all but services.
            plugins: which are on for it (True, or their settings) and which off (False).
            examples: questions that an empty chat offers.

        Raises:
            ConfigError: the name cannot be a file's name.
            BackendError: the backend is unknown.
            ParameterError: a parameter is unknown or out of range.
        """
        model = Model(name, backend, str(path), description, dict(parameters or {}), file_in_path=file, sha256=sha256)
        model.guests, model.examples = guests, list(examples)
        model.plugins = {key: said if isinstance(said, bool) else dict(said) for key, said in (plugins or {}).items()}
        self.config.add(model)
        self.changed()

    def remove_model(self, name: str) -> None:
        """Forget a model; `config.save()` moves its file to models/.trash/. A loaded one stays loaded."""
        self.model(name)
        self.config.remove(name)
        self.changed()

    def models(self) -> list[Model]:
        """Return every registered model, also those with a problem, by name."""
        return [self.config.models[name] for name in sorted(self.config.models, key=str.casefold)]

    def model(self, name: str) -> Model:
        """Return one registered model.

        Raises:
            ModelError: there is none of that name; names the nearest.
        """
        if name not in self.config.models:
            if not self.config.models:
                raise ModelError(f"Unknown model {name!r}. No model is registered yet.")
            raise ModelError(unknown_name("model", name, sorted(self.config.models)))
        return self.config.models[name]

    def plugins(self, name: str) -> list[PluginUse]:
        """Return the plugins that a model may have, in the order in which they run, and whether each is on."""
        return self.config.plugins_of(self.model(name))

    def card(self, name: str) -> ModelCard:
        """Return what a model's file says about itself, without loading it."""
        model = self.model(name)
        return get_backend(model.backend)().describe(self.config.model_path(model))

    def service_models(self, backend: str, parameters: Mapping[str, Any]) -> list[str]:
        """Ask a service for the names of its models, before one of them is registered.

        Raises:
            LlamaForgeError: the backend asks no service, a parameter is wrong, or the service does not answer.
        """
        near = get_backend(backend)()
        if not near.is_service:
            raise BackendError(f"Backend {backend!r} asks no service.")
        return list(near.service_models(validate(near.Parameters, parameters)))

    def settings_of(
        self, name: str, call: Mapping[str, Any] | None = None, origins: Mapping[str, str] | None = None
    ) -> dict[str, Setting]:
        """Return each parameter of a model with its value and where that comes from.

        The call wins over the model's file, that over settings.yaml, that over the model's and the engine's default.

        Args:
            origins: where values of the call come from that nobody typed ("preset calm").
        """
        return settings_of(self.model(name), self.config.settings, self._known_card(name), call or {}, origins or {})

    def fit_preset(self, preset: str, name: str) -> PresetFit:
        """Return what of a preset a model takes: values for an answer, and why the others are left out.

        Raises:
            ConfigError: there is no such preset, or its file is broken.
            ModelError: there is no such model.
        """
        status, backend = self.status, self.model(name).backend
        limits = dict(self._known_card(name).limits)
        if status.model == name and status.context_window:
            limits["max_tokens"] = status.context_window
        return self.config.preset(preset).fit(backend, limits)

    def _known_card(self, name: str) -> ModelCard:
        try:
            return self.card(name)
        except LlamaForgeError:
            return ModelCard()  # the file is gone or broken; loading it will say so

    # The loaded model

    @property
    def status(self) -> Status:
        """What is loaded now."""
        return self._status

    @property
    def settings_changed(self) -> bool:
        """Whether the loaded model would be loaded differently by now, as its file or settings.yaml changed."""
        with self._state:
            model, given, loaded = self._loaded, self._given, self._loaded_by
        now = self.config.models.get(model.name) if model is not None else None
        if now is None or now.problem is not None:
            return False
        return load_settings(now, self.config.settings, given) != loaded

    @property
    def load_progress(self) -> LoadProgress | None:
        """How far the running load has come; None where none runs or nobody can tell."""
        loading = self._loading
        return loading.load_progress() if loading is not None else None

    def check_model(self, name: str, parameters: Mapping[str, Any] | None = None) -> str | None:
        """Raise what would surely make loading fail; return a warning where memory is short, else None.

        Raises:
            ModelError: the file is missing, damaged or no chat model, or needs more than all memory.
            BackendMissing: the package behind its backend is not installed.
        """
        model = self.model(name)
        if model.problem is not None:
            raise model.problem  # it may name no backend at all
        return self._check(model, get_backend(model.backend)(), parameters or {})

    def load_model(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Load a model in place of the one that is loaded; what can be checked is checked before that is unloaded.

        Args:
            parameters: win over those of the model's file, for this load.

        Raises:
            LlamaForgeError: it cannot be loaded; a failed check leaves the old model, a failed load leaves none.
            LoadSuperseded: a newer load or unload was asked for meanwhile.
        """
        command = self._next_command()
        with self._swap:
            self._require_newest(command, name)
            try:
                model = self.model(name)
                if model.problem is not None:
                    raise model.problem
                backend = self._backend(model.backend)
                warning = self._check(model, backend, parameters or {})
            # A custom backend may raise anything, here and below.
            except Exception as failure:
                reason = _load_error(name, failure)
                self._publish(replace(self._status, error=reason))
                if reason is failure:
                    raise
                raise reason from failure
            if warning:
                logger.warning("%s", warning)
            self._close_engine()
            self._open_engine(command, model, backend, parameters or {})

    def unload_model(self) -> None:
        """Stop what is being answered and give the model's memory back; a running load is given up."""
        command = self._next_command()
        with self._swap:
            if self._opened_by > command:
                return  # waited so long that a newer load has replaced what was to be unloaded
            engine = self._engine
            held = engine.backend.memory_used() if engine is not None else None
            if engine is not None:
                self._publish(replace(self._status, state="unloading"))
            self._close_engine()
            self._publish(Status(summary=(f"{format_bytes(held)} given back",) if held else ()))

    # Answers

    def generate(self, prompt: str, parameters: Mapping[str, Any] | None = None, *, raw: bool = False) -> str:
        """Return the answer to one message; see generate_stream."""
        return "".join(self.generate_stream(prompt, parameters, raw=raw))

    def generate_stream(
        self, prompt: str, parameters: Mapping[str, Any] | None = None, *, raw: bool = False
    ) -> Generation:
        """Answer one message, through the model's own chat template where it has one.

        Args:
            raw: send the text untouched, and return what the model continues it with, thoughts and all.

        Raises:
            GenerationError: nothing is loaded, or the prompt is empty.
            ParameterError: a parameter is unknown or out of range.
        """
        if not raw:
            return self.chat_stream([Message("user", prompt)], parameters)
        engine, settings, told = self._ready_for(parameters)
        text = require_text(clean_text(prompt))
        return engine.submit(
            lambda lane: as_chunks(
                ended_by(
                    settings.get("stop"),
                    or_whole(lane.generate_stream(text, settings), lambda: lane.generate(text, settings)),
                )
            ),
            told,
        )

    def chat(self, messages: Chat, parameters: Mapping[str, Any] | None = None) -> str:
        """Return the answer to a chat; see chat_stream."""
        return "".join(self.chat_stream(messages, parameters))

    def chat_stream(
        self,
        messages: Chat,
        parameters: Mapping[str, Any] | None = None,
        *,
        last: bool = False,
        longest: float | None = None,
        overflow: Overflow = "refuse",
    ) -> Generation:
        """Answer a chat, or continue its last answer.

        Args:
            messages: Message objects or {"role": …, "content": …}; pictures of a message are its `images`. Where the
                last one is the assistant's, the answer is what continues it.
            last: wait until no answer that is not `last` waits.
            longest: seconds that it may be written for; it is stopped then.
            overflow: what happens where the chat does not fit into the context window: "refuse" it with a
                ContextOverflow, or "drop" its oldest turns, never the system prompt or the last message.

        Raises:
            GenerationError: nothing is loaded, the last message is empty, or a picture cannot be used.
            NoVision: a message holds pictures, and the model cannot see any.
            ParameterError: a parameter is unknown or out of range.
        """
        engine, settings, told = self._ready_for(parameters)
        chat = [clean_message(message) for message in messages]
        _require_something(chat)
        require_few_images(chat)
        if not engine.backend.sees_images and any(message.images for message in chat):
            raise NoVision(self._status.model)
        # Thoughts stand before an answer: in one that goes on, <think> is a word. A service begins a new one.
        continued = chat[-1].role == "assistant" and not engine.backend.is_service
        split = as_chunks if continued else split_reasoning
        plugins = self._plugins()

        def answer(lane: BaseBackend) -> Iterator[Chunk]:
            run = plugins(lane, lambda given: _tokens(lane.render(given)))
            kept = yield from run.before(chat)
            if overflow == "drop":
                kept, _ = fitting(lane, kept, settings.get("max_tokens"))
            if (dropped := _turns(chat) - _turns(kept)) > 0:
                yield Chunk(dropped=dropped)
            stream = or_whole(lane.chat_stream(kept, settings), lambda: lane.generate(plain_prompt(kept), settings))
            yield from run.after(split(ended_by(settings.get("stop"), stream)))

        return engine.submit(answer, told, last=last, longest=longest)

    def prompt(self, messages: Chat) -> Prompt | None:
        """Return a chat as the loaded model would be given it, with its tokens counted; quick, from any thread.

        What plugins do to the messages is done here too. None where nothing is loaded, where nobody can tell, and for
        some custom backends while an answer runs.

        Raises:
            LlamaForgeError: the chat template refuses this chat.
        """
        engine, chat = self._engine, [clean_message(message) for message in messages]
        if engine is None:
            return None
        run = self._plugins()(engine.backend, lambda given: _tokens(engine.read(lambda lane: lane.render(given))))
        given = run.messages(chat)
        return engine.read(lambda backend: backend.render(given))

    def count_tokens(self, text: str) -> int | None:
        """Return how many tokens a text is for the loaded model; None as for prompt()."""
        engine, text = self._engine, clean_text(text)
        return engine.read(lambda backend: backend.count_tokens(text)) if engine is not None else None

    def last_tokens(self) -> LastTokens | None:
        """Return the tokens of the last prompt and of the answer to it; None as for prompt(), and of a model that runs
        in a process of its own.
        """
        engine = self._engine
        return engine.read(lambda backend: backend.last_tokens()) if engine is not None else None

    def position(self, generation: Generation) -> int:
        """Return how many answers come before this one; 0 when it is running or done."""
        engine = self._engine
        return engine.position(generation) if engine is not None else 0

    def changed(self) -> None:
        """Tell every page that models or settings are no longer what they were."""
        with self._state:
            self._status = replace(self._status, version=self._status.version + 1)

    def _ready_for(self, parameters: Mapping[str, Any] | None) -> tuple[Engine, dict[str, Any], dict[str, Any]]:
        """Return the engine, what an answer is asked with, and what of that is told of the answer."""
        with self._state:
            engine, model, defaults = self._engine, self._loaded, self._defaults
        if engine is None or model is None:
            if self._status.state == "loading":
                loading = self._status.model
                raise NoModelLoaded(f"{loading} is still loading. Send your message again when it is ready.")
            raise NoModelLoaded("No model is loaded. Choose one and press Load.")
        current = self._as_saved(model)
        merged = replace(current, parameters=current.parameters | self._given)
        settings = effective(merged, self.config.settings, parameters or {}, engine.backend.context_window)
        backend = get_backend(model.backend)
        settings = _seeded(backend, settings)
        return engine, settings, _told(backend, {**defaults, **settings})

    def _as_saved(self, model: Model) -> Model:
        """What was saved since the load holds at once; a model that was renamed or broken meanwhile is as loaded."""
        saved = self.config.models.get(model.name, model)
        return saved if saved.problem is None and saved.backend == model.backend else model

    def _plugins(self) -> Callable[[BaseBackend, Callable[[Sequence[Message]], int | None]], PluginRun]:
        """Return what makes a run of the loaded model's plugins, as they are now; it holds on to nothing of this."""
        model, name, config = self._loaded, self._status.model or "", self.config
        uses = config.plugins_of(self._as_saved(model)) if model is not None else []

        def run(backend: BaseBackend, count: Callable[[Sequence[Message]], int | None]) -> PluginRun:
            about = LoadedModel(name, backend.context_window, count)
            return PluginRun(uses, about, config.suspend_plugin, sees_images=backend.sees_images)

        return run

    def _check(self, model: Model, backend: BaseBackend, call: Mapping[str, Any]) -> str | None:
        if model.problem is not None:
            raise model.problem
        path, parameters = self.config.model_path(model), effective(model, self.config.settings, call)
        if parameters.get("trust_remote_code") and not self.allow_remote_code:
            raise ModelError(
                f"{model.name} is set to run its own Python code (trust_remote_code). If you trust its author, start "
                "with --allow-remote-code on this computer; shared pages never allow it."
            )
        self._check_keys(model, parameters)
        backend.check(path, parameters)
        need = backend.memory_needed(path, parameters)
        if need is None:
            return None
        hint = "Lower n_ctx in the Parameters tab, or choose a smaller model."
        return verdict(need, measure(find_gpus()), freed=self._freed_by_unloading(), hint=hint)

    def _check_keys(self, model: Model, parameters: Mapping[str, Any]) -> None:
        keys = literal_keys(get_backend(model.backend).Parameters, parameters)
        note(keys.values())
        if keys and not self.allow_literal_keys:
            name = next(iter(keys))
            raise ParameterError(
                f"The settings of {model.name} hold a key in plain text, which is not used while the page is public. "
                f"Put it into an environment variable and write {name}: ${{OPENAI_API_KEY}}",
                name=name,
            )

    def _freed_by_unloading(self) -> int:
        need = self._need if self._engine is not None else None
        # The weights are mapped from the file, and the system counts mapped files as free memory already.
        return need.kv_cache + need.compute if need is not None else 0

    def _backend(self, name: str) -> BaseBackend:
        near = get_backend(name)()
        place = backend_place(name)
        if not (self._isolate and place and near.in_worker):
            return near
        from .worker_backend import WorkerBackend

        return WorkerBackend(place, near, on_lost=self._lost)

    def _open_engine(self, command: int, model: Model, backend: BaseBackend, call: Mapping[str, Any]) -> None:
        """Load and publish last; where that fails, nothing is loaded and the status says why."""
        self._publish(Status("loading", model.name, model.backend, time.time()))
        self._loading = backend
        started = time.perf_counter()
        try:
            self._require_newest(command, model.name)
            path, parameters = self.config.model_path(model), effective(model, self.config.settings, call)
            loaded_by = load_settings(model, self.config.settings, call)
            need = backend.memory_needed(path, parameters)
            backend.load_model(path, parameters | ({"sha256": model.sha256} if model.sha256 else {}))
            self._require_newest(command, model.name)
            defaults = _defaults(model.backend, backend, path)
        except BaseException as failure:
            self._loading = None
            superseded = command != self._command
            reason = _superseded(model.name) if superseded else _load_error(model.name, failure)
            self._publish(Status(error=None if superseded else reason))
            backend.unload_model()
            if reason is failure or isinstance(failure, KeyboardInterrupt):
                raise
            raise reason from failure
        self._loading = None
        with self._state:
            self._engine = engine = Engine(backend, model.name, longest_line=self._longest_line)
            # What was given for this load holds for its answers too.
            given = {key: value for key, value in call.items() if value is not None}
            self._loaded, self._given, self._loaded_by = model, given, loaded_by
            self._defaults = defaults
            self._need, self._opened_by = need, command
            # Ends the engine's thread and frees the model when the program ends or lets go of this object.
            self._close = weakref.finalize(self, engine.close)
        self._publish(_ready(model, backend, time.perf_counter() - started))

    def _lost(self) -> None:
        """A worker died and could not be started again."""
        self._publish(Status(error=ModelError("The model stopped too often, or could not be loaded again. Load it.")))

    def _close_engine(self) -> None:
        with self._state:
            self._engine = self._loaded = None
        if self._close is not None:
            self._close()  # once: a finalizer that has run is dead

    def _next_command(self) -> int:
        with self._state:
            self._command += 1
            command, loading = self._command, self._loading
        if loading is not None:
            loading.stop()  # a newer command: the load that is running has become pointless
        return command

    def _require_newest(self, command: int, name: str) -> None:
        if command != self._command:
            raise _superseded(name)

    def _publish(self, status: Status) -> None:
        with self._state:
            self._status = replace(status, version=self._status.version + 1)


def _ready(model: Model, backend: BaseBackend, seconds: float) -> Status:
    return Status(
        "ready",
        model.name,
        model.backend,
        time.time(),
        load_seconds=seconds,
        context_window=backend.context_window,
        sees_images=backend.sees_images,
        summary=tuple(backend.summary()),
        warnings=tuple(backend.warnings()),
    )


def _require_something(chat: Sequence[Message]) -> None:
    """Raise where there is nothing to answer and nothing to continue."""
    last = chat[-1] if chat else Message("user", "")
    if last.role == "assistant" and not last.content:
        raise GenerationError("There is nothing to continue. Ask for the answer anew.")
    if not last.images:
        require_text(last.content)


def _turns(chat: Sequence[Message]) -> int:
    return sum(message.role != "system" for message in chat)


def _tokens(prompt: Prompt | None) -> int | None:
    return prompt.tokens if prompt is not None else None


def _seeded(backend: type[BaseBackend], settings: dict[str, Any]) -> dict[str, Any]:
    """Choose the seed that nobody set, where a backend keeps to it: so it is known and the answer can be had again."""
    return {"seed": secrets.randbelow(LARGEST_SEED + 1), **settings} if backend.keeps_to_seed else settings


def _defaults(name: str, backend: BaseBackend, path: str) -> dict[str, Any]:
    """Return what a loaded model does where nothing is set, as far as that is known; a service's own is its secret."""
    if get_backend(name).is_service:
        return {}
    try:
        own = backend.describe(path).defaults
    except LlamaForgeError:
        own = {}  # the file is gone by now
    known = {info.name: info.default for info in describe(get_backend(name).Parameters).values()} | dict(own)
    return {key: value for key, value in known.items() if value is not None}


def _told(backend: type[BaseBackend], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that belong to an answer and not to the load."""
    infos = describe(backend.Parameters)
    told = [key for key, info in infos.items() if key in settings and info.scope == "generate" and not info.secret]
    return {key: settings[key] for key in told}


def _load_error(name: str, failure: BaseException) -> LlamaForgeError:
    if isinstance(failure, LlamaForgeError):
        return failure
    return ModelError(f"Loading {name!r} failed: {type(failure).__name__}: {failure}")


def _superseded(name: str) -> LoadSuperseded:
    return LoadSuperseded(f"Loading {name!r} was given up: another model was asked for meanwhile.")
