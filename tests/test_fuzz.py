"""Whole model files with damage that our reader lets pass, given to the real engine: an answer or an error of ours.

The readers themselves are given a thousand damaged texts and headers each in test_yaml_file.py and test_gguf_file.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest
from tiny_gguf import write_tiny_gguf
from worker_kit import LONG, isolated, workers

from llamaforge import LlamaForge, LlamaForgeError
from llamaforge.gguf_file import read_header, require_chat_model

SURVIVORS = 48
PARTS = 4
ANSWER = "I am a small model and this is all that I say."


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("fuzz") / "good.gguf", ANSWER, width=64, layers=1, feed_forward=64)


@pytest.fixture(scope="module")
def survivors(good: Path) -> list[Path]:
    """Damaged copies that our reader takes for chat models: in their settings, words and tensors' descriptions."""
    data, header = good.read_bytes(), int(gguf.GGUFReader(good).data_offset)
    found: list[Path] = []
    for seed in range(1000):
        path = good.with_name(f"damaged-{seed}.gguf")
        path.write_bytes(damaged(data, seed, within=header))
        try:
            require_chat_model(read_header(path))
            found.append(path)
        except LlamaForgeError:
            path.unlink()
        if len(found) == SURVIVORS:
            break
    return found


def damaged(data: bytes, seed: int, within: int) -> bytes:
    """Return a copy with some bytes set, flipped or moved; the same seed does the same."""
    choice, copy = random.Random(seed), bytearray(data)
    for _ in range(choice.randint(1, 6)):
        place, length = choice.randrange(8, within), choice.randint(1, 8)
        copy[place : place + length] = choice.choice(
            (choice.randbytes(length), b"\xff" * length, bytes(length), data[place + 1 : place + 1 + length])
        )
    return bytes(copy[: len(data)]).ljust(len(data), b"\0")


@pytest.fixture
def far(tmp_path: Path, good: Path) -> Iterator[LlamaForge]:
    with isolated(tmp_path, good=good) as forge:
        yield forge


def ask(forge: LlamaForge, name: str) -> str:
    """Load a model and ask it; return what came of it."""
    try:
        forge.load_model(name, {"n_ctx": 256})
    except LlamaForgeError:
        return "not loaded"
    result = forge.generate_stream("hi", {"max_tokens": 4}).wait(LONG)
    assert result is not None
    assert result.error is None or isinstance(result.error, LlamaForgeError)
    return result.finish_reason


def test_enough_damaged_files_pass_our_reader(survivors: list[Path]) -> None:
    assert len(survivors) == SURVIVORS


@pytest.mark.parametrize("part", range(PARTS))
def test_a_damaged_model_ends_in_an_answer_or_in_an_error_of_ours(
    far: LlamaForge, survivors: list[Path], part: int
) -> None:
    for path in survivors[part::PARTS]:
        far.add_model(path.stem, str(path), "llama.cpp", {"n_threads": 1})
        assert ask(far, path.stem) in ("not loaded", "error", "stop", "length")
        assert len(workers()) <= 1
    assert ask(far, "good") == "length" and far.generate("hi") == ANSWER
