"""Every error that LlamaForge raises on purpose.

LlamaForgeError
├── ConfigError              a file of the config folder is wrong; knows file and line
│   ├── ConfigConflict       the file changed on disk since it was read
│   └── CannotSplice         an edit would lose comments; the page offers "Save as copy"
├── ParameterError           a parameter is unknown, out of range or of the wrong type
├── ModelError               a model cannot be loaded
│   ├── ModelFileError       the file is missing, damaged or no chat model
│   ├── OutOfMemory          the model needs more than the machine has
│   └── LoadSuperseded       a newer load or unload took this one's place
├── PluginError              a plugin cannot be found or imported, or fails
├── BackendError             a backend is unknown, registered twice or broken
│   └── BackendMissing       the package behind a backend is not installed
└── GenerationError          a message cannot be answered
    ├── NoModelLoaded
    ├── Busy                 too many answers wait in line already
    ├── EmptyPrompt
    ├── GuestLimit           a guest asks for more than guests of a shared page may
    ├── ContextOverflow      the prompt is longer than the context window
    ├── NoVision             the chat holds pictures, which the model cannot see
    └── ServiceError         an OpenAI-compatible service refuses, or breaks off
        ├── KeyRefused       the key is missing, wrong or may not do this
        ├── ServiceBusy      too many requests, or no credit left
        ├── ServiceUnreachable   no connection, a broken one, or silence
        └── NotCompatible    what came is no answer of an OpenAI-compatible service

The text of each is a sentence for the person at the page: what happened and what to do.
"""

from __future__ import annotations

from pathlib import Path

from .redaction import hide_secrets


class LlamaForgeError(Exception):
    """Base of every error that LlamaForge raises on purpose.

    `details` is for the owner's eyes only (engine messages, say); it may name paths.
    """

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.details = details

    def __str__(self) -> str:
        """Return the sentence without keys: a part of it may be somebody else's words."""
        return hide_secrets(super().__str__())


class ConfigError(LlamaForgeError):
    """A problem in a file of the config folder; `line` and `column` count from 1."""

    def __init__(
        self, problem: str, *, file: Path | None = None, line: int | None = None, column: int | None = None
    ) -> None:
        # Folder and name tell which file it is; the rest of the path is nobody's business but the owner's.
        place = "" if file is None else "/".join(file.parts[-2:])
        if line is not None:
            place += f" line {line}" + ("" if column is None else f", column {column}")
        super().__init__(f"{place}: {problem}" if place else problem)
        self.problem = problem
        self.file = file
        self.line = line
        self.column = column


class ConfigConflict(ConfigError):
    """The file on disk is no longer the one that was read."""


class CannotSplice(ConfigError):
    """The edit cannot be made without losing comments or formatting."""


class ParameterError(LlamaForgeError):
    """A parameter is unknown, out of range or of the wrong type; `name` is the first such parameter."""

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


class ModelError(LlamaForgeError):
    """A model cannot be loaded."""


class ModelFileError(ModelError):
    """The model's file is missing, damaged or not a chat model."""


class OutOfMemory(ModelError):
    """The model needs more memory than the machine has."""


class LoadSuperseded(ModelError):
    """A newer load or unload took this one's place."""


class PluginError(LlamaForgeError):
    """A plugin cannot be found or imported, or one of its hooks fails."""


class BackendError(LlamaForgeError):
    """A backend is unknown, registered twice or broken."""


class BackendMissing(BackendError):
    """The package behind a backend is not installed."""


class GenerationError(LlamaForgeError):
    """A message cannot be answered."""


class NoModelLoaded(GenerationError):
    """Nothing is loaded that could answer."""


class Busy(GenerationError):
    """Too many answers wait in line already."""


class EmptyPrompt(GenerationError):
    """The message holds no text."""


class GuestLimit(GenerationError):
    """A guest of a shared page asks for more than guests may."""


class ContextOverflow(GenerationError):
    """The prompt is longer than the context window."""

    def __init__(
        self,
        prompt_tokens: int,
        context_window: int,
        advice: str = "Start a new chat, shorten the message, or raise n_ctx.",
    ) -> None:
        super().__init__(
            f"This chat is too long for the model ({prompt_tokens:,} of {context_window:,} tokens). {advice}"
        )
        self.prompt_tokens = prompt_tokens
        self.context_window = context_window


class NoVision(GenerationError):
    """The chat holds pictures, and the loaded model cannot see any."""

    def __init__(self, model: str | None = None) -> None:
        super().__init__(
            f"{model or 'The model'} cannot see pictures. Load a model that can (a vision model, such as Qwen-VL or "
            "Gemma 3), or send the message without them."
        )


class ServiceError(GenerationError):
    """An OpenAI-compatible service refuses, or breaks off."""


class KeyRefused(ServiceError):
    """The service does not accept the key, or the key may not do this."""


class ServiceBusy(ServiceError):
    """The service takes no more requests for now, or the account has no credit left."""


class ServiceUnreachable(ServiceError):
    """There is no connection to the service, it broke, or nothing comes over it."""


class NotCompatible(ServiceError):
    """What came is no answer of an OpenAI-compatible service."""
