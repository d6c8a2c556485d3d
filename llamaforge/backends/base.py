"""What every backend is: four methods are enough, the rest has defaults.

A backend knows its engine and its files. It knows no config, no page and no other backend. Its methods are called
from one thread at a time, except `stop` and `load_progress`, which may come from any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from ..types import Chunk, LastTokens, LoadProgress, MemoryNeed, Message, ModelCard, Prompt, Strengths
from .parameters import Parameters, SamplingParameters


class BaseBackend:
    """Base of a backend; a subclass with the first four methods works everywhere."""

    Parameters: ClassVar[type[Parameters]] = SamplingParameters
    """The schema of its parameters; the page draws its controls from it."""

    ignored: ClassVar[Mapping[str, str]] = {}
    """Parameters of the schema that the engine does not honour, each with the reason; the page disables them."""

    file_keys: ClassVar[Sequence[str]] = ()
    """Keys of a model's YAML beside path that it understands: "file", a file in path, and "sha256", its checksum."""

    in_worker: ClassVar[bool] = True
    """Whether the page runs it in a child process, where it was registered by "module:Class"."""

    reads_beside: bool = False
    """Whether count_tokens and render may be called from any thread, beside a running answer and while unloading."""

    keeps_to_seed: ClassVar[bool] = False
    """Whether the same `seed` and settings give the same answer; where none is set, one is chosen then and told."""

    paths_are_files: ClassVar[bool] = True
    """Whether a model's path may be a file of this disk; the name of a model at a service is none."""

    is_service: ClassVar[bool] = False
    """Whether it asks a service, by the parameters api_base and api_key, which can name its models."""

    about: ClassVar[str] = ""
    """What it is good at, in a sentence for who chooses a backend."""

    strengths: ClassVar[Strengths] = Strengths()
    """The same by performance, flexibility, quality, cost and privacy; the page compares the backends by them."""

    path_label: ClassVar[str] = "Path"
    path_help: ClassVar[str] = "What the backend is given to load."
    path_example: ClassVar[str] = ""

    context_window: int | None = None
    """Tokens that prompt and answer share, once a model is loaded; None where there is no known limit."""

    sees_images: bool = False
    """Whether the loaded model can be shown pictures; chat_stream is given messages with some only where it can."""

    def load_model(self, model_path: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Load the model; raise a ModelError that says why not."""
        raise NotImplementedError(f"{type(self).__name__} has no load_model().")

    def generate(self, prompt: str, parameters: Mapping[str, Any] | None = None) -> str:
        """Return the whole continuation of a prompt."""
        return "".join(_text(piece) for piece in self.generate_stream(prompt, parameters))

    def generate_stream(self, prompt: str, parameters: Mapping[str, Any] | None = None) -> Iterator[str | Chunk]:
        """Yield the continuation of a prompt piece by piece."""
        raise NotImplementedError(f"{type(self).__name__} has no generate_stream().")

    def load_progress(self) -> LoadProgress | None:
        """Return how far a running load has come; None where nobody can tell. May be called from any thread."""
        return None

    def lanes(self) -> Sequence[BaseBackend]:
        """Return the loaded model as often as it can answer at once; each lane is used by a thread of its own.

        A local model answers one at a time and is its own only lane; a service may answer several.
        """
        return (self,)

    def service_models(self, parameters: Mapping[str, Any]) -> Sequence[str]:
        """Return the names of a service's models; one request, nothing need be loaded."""
        return ()

    def require_public(self, parameters: Mapping[str, Any]) -> None:
        """Raise where parameters that somebody typed into a public page would have it ask the owner's network."""

    def secrets(self, path: str) -> Sequence[str]:
        """Return the names of secret environment variables without which a child process cannot load this model."""
        return ()

    def is_model_loaded(self) -> bool:
        """Tell whether load_model has succeeded and unload_model has not been called since."""
        raise NotImplementedError(f"{type(self).__name__} has no is_model_loaded().")

    def chat_stream(
        self, messages: Sequence[Message], parameters: Mapping[str, Any] | None = None
    ) -> Iterator[str | Chunk]:
        """Yield the answer to a chat; by default the chat is sent as "role: content" lines.

        Where the last message is the assistant's, it is an answer that was cut off: what continues it is yielded.
        """
        return self.generate_stream(plain_prompt(messages), parameters)

    def check(self, path: str, parameters: Mapping[str, Any]) -> None:
        """Raise what would surely make load_model fail; called before the running model is unloaded."""

    def describe(self, path: str) -> ModelCard:
        """Return what the model says about itself, without loading it."""
        return ModelCard()

    def memory_needed(self, path: str, parameters: Mapping[str, Any]) -> MemoryNeed | None:
        """Return the bytes that load_model will take; None where that is unknown or nothing."""
        return None

    def unload_model(self) -> None:
        """Give the model's memory back; harmless when nothing is loaded."""

    def stop(self) -> None:
        """Make the running stream end soon, and a running load where that is possible; may be called from any thread.

        A stream forgets an earlier stop when it begins, then yields an empty Chunk before its first long step.
        """

    def recover(self) -> None:
        """Mend what the last answer broke; called after each one."""

    def count_tokens(self, text: str) -> int | None:
        """Return how many tokens a text is; None where the backend cannot tell."""
        return None

    def render(self, messages: Sequence[Message]) -> Prompt | None:
        """Return a chat as the model would be given it, special tokens spelled out; None where nobody can tell."""
        text = plain_prompt(messages)
        return Prompt(text, self.count_tokens(text))

    def last_tokens(self) -> LastTokens | None:
        """Return the tokens of the last prompt and of the answer to it; None where the backend cannot tell."""
        return None

    def summary(self) -> Sequence[str]:
        """Return short facts on the loaded model for the status line ("4.1 GB", "32 of 32 layers on GPU")."""
        return ()

    def memory_used(self) -> int | None:
        """Return the bytes of RAM that the loaded model holds; None where nobody can tell."""
        return None

    def warnings(self) -> Sequence[str]:
        """Return what the user should know about the loaded model, one sentence each with what to do."""
        return ()


def plain_prompt(messages: Sequence[Message]) -> str:
    """Return a chat as "role: content" lines that end in "assistant:", for models without a chat template.

    Where the last message is the assistant's, its text is the end, just as the model wrote it, for it to go on.
    """
    continued = messages[-1].content if messages and messages[-1].role == "assistant" else None
    said = messages if continued is None else messages[:-1]
    return "\n".join([*(f"{message.role}: {message.content}" for message in said), f"assistant:{continued or ''}"])


def _text(piece: str | Chunk) -> str:
    return piece.text if isinstance(piece, Chunk) else piece
