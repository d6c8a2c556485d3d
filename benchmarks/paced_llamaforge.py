"""A plugin for the page's benchmark: LlamaForge's own llama.cpp backend at the benchmark's pace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from paced import Pace, paced

from llamaforge import Chunk, Message, register_backend
from llamaforge.backends.llama_cpp import LlamaCppBackend


class PacedLlama(LlamaCppBackend):
    """Answers with so many tokens as the file beside its model asks for."""

    def load_model(self, model_path: str, parameters: Mapping[str, Any] | None = None) -> None:
        self._folder = Path(model_path).parent
        super().load_model(model_path, parameters)

    def chat_stream(
        self, messages: Sequence[Message], parameters: Mapping[str, Any] | None = None
    ) -> Iterator[str | Chunk]:
        told = {**(parameters or {}), "max_tokens": Pace.read(self._folder).tokens, "temperature": 0.0}
        return paced(super().chat_stream(messages, told), _says, self._folder, "llamaforge")


def _says(piece: str | Chunk) -> bool:
    return bool(piece if isinstance(piece, str) else piece.text)


register_backend("paced", "paced_llamaforge:PacedLlama")
