"""One turn of a chat: what one side said, and for an answer, how it was made and how it went. Knows no Gradio."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from llamaforge import Generation, GenerationError, Image, PluginNote, Result, Usage

from .history import Record

UNFINISHED = ("length", "cancelled", "error", "interrupted")  # what Continue goes on with


@dataclass(slots=True, eq=False)
class Turn:
    """What one side said; to an answer that is being written, its generation adds."""

    role: str
    said: str = ""
    generation: Generation | None = None
    about: dict[str, Any] = field(default_factory=dict)  # the model, its settings, and how the answer went
    thought: str = ""
    images: tuple[Image, ...] = ()  # of a new one; those that are kept are read when they are needed
    has_images: bool = False
    id: int = 0
    parent: int | None = None
    created: float = field(default_factory=time.time)
    lost: bool = False  # whether it ended because nobody was there any more to read it
    journaled: tuple[int, int] = (0, 0)  # characters of text and reasoning of the generation

    @property
    def text(self) -> str:
        said, generation = self.said, self.generation  # in this order: settle() takes the generation away first
        return said + generation.text if generation is not None else self.said

    @property
    def reasoning(self) -> str:
        thought, generation = self.thought, self.generation
        return thought + generation.reasoning if generation is not None else self.thought

    def settle(self) -> None:
        """Take over what the generation has written; a reader in another thread never sees it twice."""
        said, thought = self.text, self.reasoning
        self.generation, (self.said, self.thought) = None, (said, thought)

    @property
    def model(self) -> str:
        return str(self.about.get("model", ""))

    @property
    def result(self) -> Result | None:
        """How the answer went; None while it is written, and for what a person wrote."""
        if (generation := self.generation) is not None:
            return generation.result
        return _result(self.about) if self.role == "assistant" and "finish_reason" in self.about else None

    @property
    def unfinished(self) -> bool:
        """Whether this is an answer that was cut off, and has words to go on from."""
        generation = self.generation
        idle = generation is None or generation.stopping
        ended = self.about.get("finish_reason", "interrupted")
        return self.role == "assistant" and idle and bool(self.text) and ended in UNFINISHED

    def record(self) -> Record:
        return Record(
            self.id, self.parent, self.role, self.text, self.reasoning, self.about, self.created, self.images
        )


def asked_of(generation: Generation) -> dict[str, Any]:
    """Return which model an answer is asked of, and with which settings, as plain values."""
    return {"model": generation.model, "settings": dict(generation.settings)}


def told(result: Result) -> dict[str, Any]:
    """Return how an answer went as plain values."""
    return {
        "finish_reason": result.finish_reason,
        "usage": asdict(result.usage) if result.usage is not None else None,
        "seconds": result.seconds,
        "time_to_first_token": result.time_to_first_token,
        "tokens_per_second": result.tokens_per_second,
        "dropped": result.dropped,
        "notes": [asdict(note) for note in result.notes],
        "error": str(result.error) if result.error is not None else None,
    }


def _result(about: Mapping[str, Any]) -> Result:
    usage, error = about.get("usage"), about.get("error")
    return Result(
        text="",
        reasoning="",
        finish_reason=about["finish_reason"],
        usage=Usage(**usage) if usage else None,
        seconds=about.get("seconds") or 0.0,
        time_to_first_token=about.get("time_to_first_token"),
        tokens_per_second=about.get("tokens_per_second"),
        error=GenerationError(error) if error else None,
        dropped=about.get("dropped") or 0,
        notes=tuple(PluginNote(**note) for note in about.get("notes") or ()),
    )
