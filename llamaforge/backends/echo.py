"""A backend that says the message back: no dependency, no file, for a first look and for tests of a page."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..types import Chunk, FinishReason, Message, ModelCard, Usage
from .base import BaseBackend
from .parameters import Parameters, generate


class EchoParameters(Parameters):
    """Parameters of the echo backend; a word is its token."""

    max_tokens: int | None = generate(
        None, "Longest answer in words. Unset: the whole message.", ge=1, le=1_048_576, advanced=False
    )
    tokens_per_second: float | None = generate(
        None, "Words a second. Unset: as fast as possible.", ge=0.1, le=10_000, advanced=False
    )


class EchoBackend(BaseBackend):
    """Answers every message with its own words."""

    Parameters = EchoParameters
    in_worker = False
    reads_beside = True
    about = "Says your own words back: to try the page without a model."
    path_help = "Anything; this backend has no file."

    def __init__(self) -> None:
        self._loaded = False
        self._stopped = threading.Event()

    def load_model(self, model_path: str, parameters: Mapping[str, Any] | None = None) -> None:
        self._loaded = True

    def is_model_loaded(self) -> bool:
        return self._loaded

    def unload_model(self) -> None:
        self._loaded = False

    def stop(self) -> None:
        self._stopped.set()

    def count_tokens(self, text: str) -> int:
        return len(_words(text))

    def describe(self, path: str) -> ModelCard:
        return ModelCard(facts={"Answers with": "your own words"})

    def chat_stream(
        self, messages: Sequence[Message], parameters: Mapping[str, Any] | None = None
    ) -> Iterator[str | Chunk]:
        said = messages[-1].content if messages[-1].role == "assistant" else ""  # of an answer that is continued
        asked = next((message.content for message in reversed(messages) if message.role == "user"), "")
        return self.generate_stream(asked[len(said) :], parameters)

    def generate_stream(self, prompt: str, parameters: Mapping[str, Any] | None = None) -> Iterator[str | Chunk]:
        self._stopped.clear()
        yield Chunk()
        settings = parameters or {}
        words = _words(prompt)
        answer = words[: settings.get("max_tokens")]
        pause = 1 / settings["tokens_per_second"] if settings.get("tokens_per_second") else 0
        said = 0
        for word in answer:
            if self._stopped.wait(pause) if pause else self._stopped.is_set():
                break
            said += 1
            yield word
        finish: FinishReason = "cancelled" if said < len(answer) else "length" if said < len(words) else "stop"
        yield Chunk(finish_reason=finish, usage=Usage(len(words), said))


def _words(text: str) -> list[str]:
    """Split a text into words with the space around them, so that joining gives the text back."""
    return re.findall(r"\s*\S+(?:\s+$)?|\s+$", text)
