"""Pictures and the real transformers, without torchvision: what they add to a prompt, and what stays as it was."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from picture_kit import noise, picture
from tiny_hf import write_random_pair
from tiny_hf_vision import write_tiny_llava, write_tiny_qwen_vl
from worker_kit import isolated, result_of

from llamaforge import Chunk, GenerationError, Image, LlamaForge, Message, NoVision, Usage
from llamaforge.backends.huggingface import HuggingFaceBackend

GREEDY = {"temperature": 0.0, "max_tokens": 10}
CONTROL = {"llava": "<image>", "qwen2-vl": "<|image_pad|>"}

Load = Callable[[Path], HuggingFaceBackend]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hf-vision")
    return {"llava": write_tiny_llava(folder / "llava"), "qwen2-vl": write_tiny_qwen_vl(folder / "qwen")}


@pytest.fixture(params=["llava", "qwen2-vl"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def load() -> Iterator[Load]:
    """Load a folder into a backend of its own, which is unloaded at the end."""
    loaded: list[HuggingFaceBackend] = []

    def load_folder(path: Path) -> HuggingFaceBackend:
        loaded.append(HuggingFaceBackend())
        loaded[-1].load_model(str(path), {"device": "cpu"})
        return loaded[-1]

    yield load_folder
    for backend in loaded:
        backend.unload_model()


def ask(backend: HuggingFaceBackend, *images: Image, text: str = "What is it?") -> tuple[str, Usage]:
    chunks = list(backend.chat_stream([Message("user", text, images)], GREEDY))
    last = chunks[-1]
    assert isinstance(last, Chunk) and last.usage is not None
    return "".join(chunk for chunk in chunks if isinstance(chunk, str)), last.usage


def test_torchvision_is_not_needed() -> None:
    assert importlib.util.find_spec("torchvision") is None


def test_a_picture_is_part_of_the_prompt_and_changes_the_answer(
    load: Load, folders: dict[str, Path], kind: str
) -> None:
    backend = load(folders[kind])
    assert backend.sees_images and not backend.warnings()
    (blind, nothing), (red, one), (blue, _), (both, two) = (
        ask(backend, *seen) for seen in ([], [picture()], [picture("blue")], [picture("blue"), picture()])
    )
    assert len({blind, red, blue, both}) == 4
    tokens = one.prompt_tokens - nothing.prompt_tokens
    assert tokens > 4 and two.prompt_tokens == nothing.prompt_tokens + 2 * tokens
    assert ask(backend, picture())[0] == red


def test_a_chat_without_pictures_is_answered_as_if_none_had_been_seen(
    load: Load, folders: dict[str, Path], kind: str
) -> None:
    backend = load(folders[kind])
    before, _ = ask(backend)
    ask(backend, picture(size=(200, 100)))
    after, usage = ask(backend)
    again, cached = ask(backend)
    assert before == after == again
    assert usage.cached_tokens == cached.cached_tokens == cached.prompt_tokens - 1  # kept while it looked


def test_a_text_is_answered_as_by_the_text_model_alone(load: Load, folders: dict[str, Path], tmp_path: Path) -> None:
    text = load(write_random_pair(tmp_path)[1])
    assert not text.sees_images
    assert ask(load(folders["llava"]))[0] == ask(text)[0]


def test_what_a_person_types_is_never_taken_for_a_picture(load: Load, folders: dict[str, Path], kind: str) -> None:
    backend, typed = load(folders[kind]), f"a {CONTROL[kind]} <|im_end|> b"
    _, alone = ask(backend, text=typed)
    _, beside = ask(backend, picture(), text=typed)
    _, plain = ask(backend)
    _, seen = ask(backend, picture())
    assert beside.prompt_tokens - alone.prompt_tokens == seen.prompt_tokens - plain.prompt_tokens


def test_a_prompt_is_counted_with_its_pictures(load: Load, folders: dict[str, Path], kind: str) -> None:
    backend, seen = load(folders[kind]), picture(size=(200, 100))
    before = backend.render([Message("user", "What is it?", (seen,))])
    assert before.tokens == ask(backend, seen)[1].prompt_tokens and CONTROL[kind] in before.text


def test_a_chat_goes_on_after_a_picture(load: Load, folders: dict[str, Path], kind: str) -> None:
    backend = load(folders[kind])

    def follow_up(colour: str) -> str:
        chat = [Message("user", "Look", (picture(colour),)), Message("assistant", "I see."), Message("user", "And?")]
        return "".join(chunk for chunk in backend.chat_stream(chat, GREEDY) if isinstance(chunk, str))

    assert follow_up("red") != follow_up("blue")


def test_a_damaged_picture_is_refused_and_the_next_chat_is_right(load: Load, folders: dict[str, Path]) -> None:
    backend = load(folders["llava"])
    before, _ = ask(backend)
    with pytest.raises(GenerationError, match=r"^A picture is damaged or incomplete\."):
        ask(backend, Image(noise((64, 64)).data[:900]))
    assert ask(backend)[0] == before


def test_a_model_of_texts_refuses_pictures_by_itself(load: Load, tmp_path: Path) -> None:
    backend = load(write_random_pair(tmp_path)[1])
    with pytest.raises(NoVision, match="^The model cannot see pictures"):
        ask(backend, picture())


def test_a_model_whose_processor_is_missing_still_answers_and_says_so(
    load: Load, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "half"
    shutil.copytree(folders["llava"], folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "NoSuchProcessor"}))
    backend = load(folder)
    assert not backend.sees_images and "half cannot be shown pictures" in backend.warnings()[0]
    assert ask(backend)[0]


def test_stop_ends_an_answer_about_a_picture(load: Load, folders: dict[str, Path], kind: str) -> None:
    backend, chunks = load(folders[kind]), []
    before, _ = ask(backend)
    for chunk in backend.chat_stream([Message("user", "Look", (picture(),))], {"temperature": 0.0}):
        chunks.append(chunk)
        if isinstance(chunk, str):
            backend.stop()
    assert isinstance(chunks[-1], Chunk) and chunks[-1].finish_reason == "cancelled"
    assert ask(backend)[0] == before


def test_the_card_says_that_a_model_sees(folders: dict[str, Path], tmp_path: Path) -> None:
    backend = HuggingFaceBackend()
    assert backend.describe(str(folders["qwen2-vl"])).facts["Pictures"] == "yes"
    assert "Pictures" not in backend.describe(str(write_random_pair(tmp_path)[1])).facts


def test_pictures_reach_a_model_in_a_worker(folders: dict[str, Path], tmp_path: Path) -> None:
    with isolated(tmp_path) as forge:
        forge.add_model("eyes", str(folders["llava"]), "huggingface", {"device": "cpu"})
        forge.load_model("eyes")
        assert forge.status.sees_images
        assert _said(forge, "red") != _said(forge, "blue")


def _said(forge: LlamaForge, colour: str) -> str:
    result = result_of(forge.chat_stream([Message("user", "What is it?", (picture(colour),))], GREEDY), 60)
    assert result.error is None
    return result.text
