"""Pictures at an OpenAI-compatible service: how they are sent, and what a service says that cannot see."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer, answer, http, refusal
from openai_kit import Connect, ask, llama_cpp_server, require_plain
from picture_kit import picture
from tiny_gguf import write_tiny_gguf
from tiny_mmproj import write_tiny_mmproj

from llamaforge import LlamaForge, Message, NoVision, ServiceError
from llamaforge.backends.openai import OpenAIBackend

CAT, DOG = picture("red"), picture("blue", form="JPEG")
CHAT = [Message("system", "Be brief."), Message("user", "What are they?", (CAT, DOG))]


def data_url(kind: str, data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}}


def test_pictures_are_sent_as_parts_before_the_text(server: FaultServer, backend: OpenAIBackend) -> None:
    server.reply(answer("A cat and a dog."))
    assert ask(backend, chat=CHAT).text == "A cat and a dog."
    system, user = server.requests[0].body["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"] == [
        data_url("image/png", CAT.data),
        data_url("image/jpeg", DOG.data),
        {"type": "text", "text": "What are they?"},
    ]


@pytest.mark.parametrize(("stated", "sees"), [(None, True), (True, True), (False, False)])
def test_a_model_sees_unless_its_file_says_that_it_does_not(connect: Connect, stated: bool | None, sees: bool) -> None:
    stating = {} if stated is None else {"images": stated}
    assert connect("http://127.0.0.1:9/v1", **stating).sees_images is sees


def test_a_model_that_is_said_to_be_blind_is_not_asked(server: FaultServer, tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("blind", "tiny", "openai", {"api_base": server.url, "images": False})
    forge.load_model("blind")
    with pytest.raises(NoVision, match="^blind cannot see pictures"):
        forge.chat(CHAT)
    forge.unload_model()
    assert not server.requests


@pytest.mark.parametrize(
    "reply",
    [
        refusal(400, "Invalid content type. image_url is only supported by certain models."),
        refusal(400, "tiny is not a multimodal model"),
        refusal(400, "At most 0 image(s) may be provided in one prompt."),
        refusal(500, "image input is not supported - hint: you may need to provide the mmproj", type="server_error"),
        refusal(400, "Model does not support images. Please use a model that does."),
        refusal(500, "Failed to process inputs: this model is missing data required for image input"),
        refusal(404, "No endpoints found that support image input"),
        refusal(400, "'messages.1' : for 'role:user' the following must be satisfied: content must be a string"),
        http(422, "Failed to deserialize: messages[1]: unknown variant `image_url`, expected `text`", "text/plain"),
    ],
    ids=["openai", "vllm", "vllm limit", "llama-server", "lm studio", "ollama", "openrouter", "groq", "deepseek"],
)
def test_a_service_that_refuses_pictures_is_understood(
    server: FaultServer, backend: OpenAIBackend, reply: bytes
) -> None:
    server.reply(reply)
    done = ask(backend, {"top_k": 5}, CHAT)
    assert isinstance(done.error, NoVision) and require_plain(done.error).startswith("tiny cannot see pictures.")
    assert len(server.requests) == 1 and not done.notes


@pytest.mark.parametrize("words", ["Invalid image format", "The image type is not supported", "Image too large"])
def test_a_picture_that_a_service_cannot_read_is_another_matter(
    server: FaultServer, backend: OpenAIBackend, words: str
) -> None:
    server.reply(refusal(400, words))
    assert words in require_plain(ask(backend, chat=CHAT).error)


def test_a_refusal_that_speaks_of_vision_is_none_of_pictures_where_none_were_sent(
    server: FaultServer, backend: OpenAIBackend
) -> None:
    server.reply(refusal(400, "The model tiny-vision is not supported here."))
    done = ask(backend)
    assert isinstance(done.error, ServiceError) and "tiny-vision is not supported" in done.said


def test_a_real_server_sees_what_is_sent(tmp_path: Path, connect: Connect) -> None:
    model = write_tiny_gguf(tmp_path / "eyes.gguf", "never said", width=128, random_weights=7)
    projector = write_tiny_mmproj(tmp_path / "mmproj.gguf")
    settings = {"temperature": 0.0, "max_tokens": 12}
    with llama_cpp_server(model, "--chat_format", "llava-1-5", "--clip_model_path", str(projector)) as url:
        backend = connect(url, timeout=20.0)
        red, blue, blind = (
            ask(backend, settings, [Message("user", "What is it?", seen)])
            for seen in ((picture("red"),), (picture("blue"),), ())
        )
    assert (red.error, blue.error) == (None, None) and len({red.text, blue.text, blind.text}) == 3
