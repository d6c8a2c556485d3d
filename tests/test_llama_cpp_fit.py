"""What a GGUF model is given: the types of its KV cache, and the bytes that they take in the real llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from tiny_gguf import DEFAULT_ANSWER, write_tiny_gguf

from llamaforge import LlamaForge, ParameterError
from llamaforge.backends.llama_cpp import LlamaCppBackend

Load = Callable[..., LlamaForge]
TYPES = ["f32", "f16", "q8_0", "q4_0"]


@pytest.mark.parametrize("type_v", TYPES)
@pytest.mark.parametrize("type_k", TYPES)
def test_every_type_of_the_kv_cache_answers_and_takes_what_was_told(tiny_gguf: Path, type_k: str, type_v: str) -> None:
    parameters = {"type_k": type_k, "type_v": type_v, "flash_attn": True, "n_ctx": 1024, "n_threads": 1}
    backend = LlamaCppBackend()
    backend.load_model(str(tiny_gguf), parameters)
    try:
        assert backend.generate("Hello " * 500, {"temperature": 0}) == DEFAULT_ANSWER
        llama = backend._llama
        assert llama is not None
        told = backend.memory_needed(str(tiny_gguf), parameters)
        assert told is not None
        kept = llama_cpp.llama_state_seq_get_size(llama.ctx, 0) / llama.n_tokens
        assert kept == pytest.approx(told.kv_cache / 1024, rel=0.1)
    finally:
        backend.unload_model()


@pytest.mark.parametrize(
    ("parameters", "same"),
    [
        ({}, {"type_k": "f16", "type_v": "f16"}),
        ({"f16_kv": True}, {"type_k": "f16", "type_v": "f16"}),
        ({"f16_kv": False}, {"type_k": "f32", "type_v": "f32"}),
        ({"f16_kv": False, "type_k": "f32"}, {"type_k": "f32", "type_v": "f32"}),
        ({"type_k": "q8_0"}, {"type_k": "q8_0", "type_v": "f16"}),
    ],
    ids=str,
)
def test_the_older_name_says_the_same(tiny_gguf: Path, parameters: dict[str, Any], same: dict[str, Any]) -> None:
    backend = LlamaCppBackend()
    backend.check(str(tiny_gguf), parameters)
    assert backend.memory_needed(str(tiny_gguf), parameters) == backend.memory_needed(str(tiny_gguf), same)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (
            {"f16_kv": True, "type_k": "q8_0"},
            "f16_kv says that the KV cache is f16, and type_k says q8_0. Leave f16_kv unset.",
        ),
        (
            {"f16_kv": False, "type_v": "f16"},
            "f16_kv says that the KV cache is f32, and type_v says f16. Leave f16_kv unset.",
        ),
        (
            {"type_v": "q4_0", "flash_attn": False},
            "type_v: q4_0 needs flash attention. Turn flash_attn on, or set type_v to f16.",
        ),
    ],
    ids=str,
)
def test_what_contradicts_itself_is_refused_and_the_model_stays(
    load: Load, tiny_gguf: Path, parameters: dict[str, Any], sentence: str
) -> None:
    forge = load(tiny_gguf)
    with pytest.raises(ParameterError) as caught:
        forge.load_model("model", parameters)
    assert (str(caught.value), forge.status.state) == (sentence, "ready")
    with pytest.raises(ParameterError, match=r"type_[kv]"):
        LlamaCppBackend().check("owner/name/model.gguf", parameters)  # before anything is fetched


@pytest.mark.parametrize("name", ["type_k", "type_v"])
def test_heads_that_no_block_fits_are_refused_and_the_model_stays(
    forge: Callable[..., LlamaForge], tiny_gguf: Path, tmp_path: Path, name: str
) -> None:
    odd = write_tiny_gguf(tmp_path / "odd.gguf", "Yes, yes.", width=80, layers=1)
    loaded = forge(tiny=tiny_gguf, odd=odd)
    loaded.load_model("tiny")
    with pytest.raises(ParameterError) as caught:
        loaded.load_model("odd", {name: "q8_0", "flash_attn": True})
    assert str(caught.value) == (
        f"{name}: q8_0 needs attention heads of a multiple of 32 numbers, and those of odd.gguf have 80. "
        f"Set {name} to f16."
    )
    assert (loaded.status.state, loaded.status.model) == ("ready", "tiny")
    loaded.load_model("odd", {name: "f32", "flash_attn": True})


def test_heads_of_32_numbers_take_every_type(load: Load, tmp_path: Path) -> None:
    small = write_tiny_gguf(tmp_path / "small.gguf", "Yes, yes.", width=32, layers=1)
    forge = load(small, type_k="q4_0", type_v="q8_0", flash_attn=True)
    assert forge.generate("hi", {"temperature": 0}) == "Yes, yes."
