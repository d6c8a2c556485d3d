"""llama.cpp in a worker, given every allowed extreme and every odd text: none of them may harm it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_kit import isolated, result_of, worker_of

from llamaforge import LlamaForge, LlamaForgeError, describe, get_backend

EXTREMES = [
    pytest.param({info.name: value}, id=f"{info.name}={value}")
    for info in describe(get_backend("llama.cpp").Parameters).values()
    if info.scope == "generate"
    for value in (info.minimum, info.maximum)
    if value is not None
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Iterator[LlamaForge]:
    """A llama.cpp in a worker that all tests of this module share."""
    with isolated(tmp_path_factory.mktemp("llama"), tiny=tiny_gguf) as forge:
        forge.load_model("tiny")
        yield forge


@pytest.mark.parametrize("parameters", EXTREMES)
def test_no_allowed_value_harms_the_engine(llama: LlamaForge, parameters: dict[str, Any]) -> None:
    worker = worker_of(llama)
    result = result_of(llama.generate_stream("hi", {"max_tokens": 8} | parameters | {"max_tokens": 8}))
    assert result.error is None and result.text
    assert worker_of(llama) == worker


@pytest.mark.parametrize(
    "text", ["🦙" * 500, "=" * 4000, " " * 4000 + "x", "\u202eabc\u2066", "\\x00" * 500, "a\u0301" * 500]
)
def test_no_text_harms_the_engine(llama: LlamaForge, text: str) -> None:
    result = result_of(llama.generate_stream(text, {"max_tokens": 4}))
    assert result.text or isinstance(result.error, LlamaForgeError)
    assert llama.generate("hi", {"max_tokens": 4})
