"""What every plugin is: a class whose hooks see the messages before an answer, and the answer piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..backends.parameters import Parameters
from ..types import Chunk, Message

PLUGIN_API = 1  # grows when a plugin that was written before would no longer work


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What a plugin is told of the model that answers.

    `count` returns how many tokens a chat is for it, None where nobody can tell; it may be called in before() only.
    """

    name: str = ""
    context_window: int | None = None
    count: Callable[[Sequence[Message]], int | None] = lambda messages: None


class Plugin:
    """Base of every plugin. One object is made for one answer, so what it keeps is that answer's own.

    Args:
        settings: an object of its Settings, filled from YAML.
        model: the model that answers.
    """

    api: ClassVar[int] = 0  # every plugin says which version of this interface it was written for: api = 1
    about: ClassVar[str] = ""  # one sentence, for the page
    seconds: ClassVar[float] = 5.0  # that before() may take, and after() between two of its pieces

    class Settings(Parameters):
        """No settings. A plugin's own are pydantic fields; each needs a default."""

    def __init__(self, settings: Any, model: LoadedModel) -> None:
        self.settings = settings
        self.model = model
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Tell everybody who reads the answer a sentence, which stands under it; at most ten an answer."""
        self.notes.append(text)

    def before(self, messages: list[Message]) -> Iterable[Message | Mapping[str, Any]]:
        """Return the messages that the model is given instead of these.

        The last one keeps its role and some content, and user and assistant take turns as before. The same messages
        must give the same ones again: the engine reads only what comes after the beginning that it knows.
        """
        return messages

    def after(self, chunks: Iterator[Chunk]) -> Iterable[Chunk | str]:
        """Yield the answer's pieces, changed or not, as they come; each has text or reasoning and nothing else.

        Ending before they do ends the answer.
        """
        return chunks
