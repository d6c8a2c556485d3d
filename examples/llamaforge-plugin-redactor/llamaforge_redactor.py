"""A plugin for LlamaForge that masks e-mail addresses in answers, while they stream."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import Field

from llamaforge import Chunk, Parameters, Plugin

ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
UNFINISHED = re.compile(r"[\w.+@-]{1,320}\Z")  # may be the beginning of an address; none is longer


class Redactor(Plugin):
    """Holds back the word that is being written, as it may become an address."""

    api = 1
    about = "Masks e-mail addresses in what the model writes."

    class Settings(Parameters):
        mask: str = Field(
            default="[e-mail]", description="What stands in place of an address.", min_length=1, max_length=100
        )

    masked = 0

    def after(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        held = {"text": "", "reasoning": ""}
        for chunk in chunks:
            given = {"text": held["text"] + chunk.text, "reasoning": held["reasoning"] + chunk.reasoning}
            ready = {}
            for kind, words in given.items():
                unfinished = UNFINISHED.search(words)
                end = unfinished.start() if unfinished else len(words)
                ready[kind], held[kind] = self._redacted(words[:end]), words[end:]
            yield Chunk(**ready)
        yield Chunk(self._redacted(held["text"]), self._redacted(held["reasoning"]))
        if self.masked:
            self.note(f"{self.masked} e-mail {'address was' if self.masked == 1 else 'addresses were'} masked.")

    def _redacted(self, words: str) -> str:
        words, count = ADDRESS.subn(lambda _: self.settings.mask, words)
        self.masked += count
        return words
