"""The OpenAI backend: what it sends, what it makes of an answer, and Stop."""

from __future__ import annotations

import threading
import time
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from fault_server import DONE, EVENTS, HANG, FaultServer, answer, delta, event, http, refusal
from openai_kit import CANARY, CHAT, Answer, Connect, ask
from scripted import claim_version, run_python, until

from llamaforge import BackendMissing, LlamaForge, NoModelLoaded, ServiceError, Usage
from llamaforge.backends.openai import OpenAIBackend, service_models

# What is sent


SETTINGS: dict[str, Any] = {
    "temperature": 0.5,
    "max_tokens": 7,
    "top_p": 0.9,
    "top_k": 11,
    "min_p": 0.02,
    "repeat_penalty": 1.1,
    "presence_penalty": 0.3,
    "frequency_penalty": -0.4,
    "seed": 42,
    "stop": ["END", "FIN"],
}
ALWAYS = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
ALWAYS |= {"stream_options": {"include_usage": True}}


def test_every_sampling_parameter_is_tried() -> None:
    infos = OpenAIBackend.Parameters.model_fields
    assert set(SETTINGS) == {name for name, field in infos.items() if field.json_schema_extra["scope"] == "generate"}  # type: ignore[index, call-overload]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_parameter_arrives_where_it_is_set_and_only_then(
    server: FaultServer, backend: OpenAIBackend, name: str
) -> None:
    server.reply(answer("Hi"))
    assert ask(backend, {name: SETTINGS[name]}).text == "Hi"
    arrived = {name: SETTINGS[name]}
    if name == "repeat_penalty":
        arrived["repetition_penalty"] = SETTINGS[name]
    assert server.requests[0].body == ALWAYS | arrived


def test_key_organization_and_address_arrive(
    server: FaultServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-the-environment")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-the-environment")
    server.reply(answer("Hi"))
    ask(connect(server.url, organization="org-7"))
    ask(connect(server.url, api_key=None))
    first, second = server.requests
    assert first.line == "POST /v1/chat/completions HTTP/1.1"
    assert (first.headers["authorization"], first.headers["openai-organization"]) == (f"Bearer {CANARY}", "org-7")
    assert second.headers["authorization"] == "Bearer none" and "openai-organization" not in second.headers
    assert first.headers["accept-encoding"] == "identity" and "openai-project" not in first.headers


def test_a_key_that_changes_is_used_from_the_next_answer_on(
    server: FaultServer, backend: OpenAIBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reply(answer("Hi"))
    monkeypatch.setenv("CANARY_API_KEY", "a-newer-key")
    ask(backend)
    assert server.requests[0].headers["authorization"] == "Bearer a-newer-key"
    monkeypatch.delenv("CANARY_API_KEY")
    assert "CANARY_API_KEY is not set" in ask(backend).said


@pytest.mark.parametrize("name", ["org/model:free", "模型-7b", 'a "quoted" \\ name', "../../etc/passwd"])
def test_a_models_name_is_sent_as_it_is(server: FaultServer, connect: Connect, name: str) -> None:
    server.reply(answer("Hi"))
    assert ask(connect(server.url, name)).text == "Hi"
    assert server.requests[0].body["model"] == name


def test_a_models_name_is_never_taken_for_a_file(server: FaultServer, tmp_path: Path, canary: None) -> None:
    (tmp_path / "gpt-4o").mkdir()
    forge = LlamaForge(tmp_path / "configs")
    forge.add_model("gpt", "gpt-4o", "openai", {"api_base": server.url})
    server.reply(answer("Hi"))
    forge.load_model("gpt")
    assert forge.generate("Hello") == "Hi"
    forge.unload_model()
    assert server.requests[0].body["model"] == "gpt-4o"


def test_openais_own_service_gets_no_parameter_it_does_not_know(connect: Connect) -> None:
    from llamaforge.backends.openai_request import body_of

    backend = connect("https://api.openai.com/v1", "gpt-5-mini", top_k=5)
    assert backend._service is not None
    body = body_of("gpt-5-mini", CHAT, SETTINGS, backend._service.dialect)
    assert not {"top_k", "min_p", "repeat_penalty", "repetition_penalty", "max_tokens"} & set(body)
    assert body["max_completion_tokens"] == 7
    assert "api.openai.com does not know top_k" in backend.warnings()[0]
    assert backend.summary() == ("api.openai.com",)


# What is learnt from a refusal


def test_a_field_that_the_service_does_not_know_is_left_out(server: FaultServer, backend: OpenAIBackend) -> None:
    server.reply(http(422, {"detail": "Unexpected fields in the request: {'top_k'}"}))
    server.reply(answer("Hi"))
    done = ask(backend, {"top_k": 3, "temperature": 1.0})
    assert (done.text, done.notes) == ("Hi", ["The service does not know top_k; the answer goes without."])
    assert ask(backend, {"top_k": 3}).text == "Hi"
    assert ["top_k" in request.body for request in server.requests] == [True, False, False]
    assert "temperature" in server.requests[1].body


def test_stream_options_that_the_service_does_not_know_are_left_out(
    server: FaultServer, backend: OpenAIBackend
) -> None:
    server.reply(refusal(400, "Unrecognized request argument supplied: stream_options"))
    server.reply(answer("Hi"))
    assert ask(backend).text == ask(backend).text == "Hi"
    assert ["stream_options" in request.body for request in server.requests] == [True, False, False]


def test_a_reasoning_model_is_asked_with_max_completion_tokens(server: FaultServer, backend: OpenAIBackend) -> None:
    wanted = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    server.reply(refusal(400, wanted, code="unsupported_parameter"))
    server.reply(answer("Hi"))
    assert ask(backend, {"max_tokens": 9}).text == ask(backend, {"max_tokens": 9}).text == "Hi"
    assert [request.body.get("max_completion_tokens") for request in server.requests] == [None, 9, 9]
    assert "max_tokens" not in server.requests[1].body and "stream_options" in server.requests[1].body


def test_a_service_that_refuses_whatever_is_asked_is_not_asked_for_ever(
    server: FaultServer, backend: OpenAIBackend
) -> None:
    server.reply(refusal(400, "unsupported: max_completion_tokens, top_k, stream_options"))
    assert "unsupported" in ask(backend, SETTINGS).said and len(server.requests) <= 4


# What is made of an answer


def test_an_answer_comes_piece_by_piece_with_its_token_counts(server: FaultServer, backend: OpenAIBackend) -> None:
    gate = threading.Event()
    counts = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    end = delta(finish="stop") + event(choices=[], usage=counts) + DONE
    server.reply(EVENTS + delta("Hel"), gate, delta("lo") + end)
    stream = backend.chat_stream(CHAT)
    pieces = [next(stream), next(stream)]
    gate.set()
    pieces += list(stream)
    assert [piece.text for piece in pieces if piece.text] == ["Hel", "lo"]  # type: ignore[union-attr]
    assert pieces[-1].usage == Usage(5, 2, 4) and pieces[-1].finish_reason == "stop"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([delta("Hi", "length")], Answer("Hi", finish="length")),
        ([delta("Hi", "eos_token")], Answer("Hi", finish="stop")),
        ([delta("Hi", "content_filter")], Answer("Hi", finish="stop", notes=["The service filtered this answer."])),
        ([delta("Hi", "stop", role="assistant")], Answer("Hi", finish="stop")),
        ([delta("Hi"), DONE], Answer("Hi", finish="stop")),
        ([delta(reasoning_content="Hm"), delta("Hi", "stop")], Answer("Hi", "Hm", finish="stop")),
        ([delta(reasoning="Hm", reasoning_content="Hm"), delta("Hi", "stop")], Answer("Hi", "Hm", finish="stop")),
        ([delta(content=[{"type": "text", "text": "Hi"}]), DONE], Answer("Hi", finish="stop")),
        ([delta(content=None, refusal="I can not."), DONE], Answer("I can not.", finish="stop")),
        ([delta("\ud83e\udd99 \ud800", "stop")], Answer("🦙 \ufffd", finish="stop")),
        ([delta("Hi", "stop"), event(choices=[], usage={"prompt_tokens": "?"}), DONE], Answer("Hi", finish="stop")),
        ([b": ping\n\nevent: message\nid: 7\n" + delta("Hi", "stop")], Answer("Hi", finish="stop")),
        ([delta("Hi", "stop").replace(b"\n", b"\r\n")], Answer("Hi", finish="stop")),
        ([delta("Hi", "stop").replace(b"data: ", b"data:")[:-1]], Answer("Hi", finish="stop")),
        ([b'data: {"choices": [{"delta":\ndata: {"content": "Hi"}}]}\n\n', DONE], Answer("Hi", finish="stop")),
        ([b"\xef\xbb\xbf" + delta("Hi", "stop")], Answer("Hi", finish="stop")),
        (
            [event(type="ping"), event(choices=None), event(choices=[7]), delta("Hi"), DONE],
            Answer("Hi", finish="stop"),
        ),
    ],
)
def test_answers_are_understood_as_servers_send_them(
    server: FaultServer, backend: OpenAIBackend, events: list[bytes], expected: Answer
) -> None:
    whole = EVENTS + b"".join(events)
    server.reply(iter(whole[n : n + 7] for n in range(0, len(whole), 7)))
    assert ask(backend) == expected


def test_a_server_that_does_not_stream_is_shown_at_once(server: FaultServer, backend: OpenAIBackend) -> None:
    choice = {"message": {"role": "assistant", "content": "Hi END there", "reasoning_content": "Hm"}}
    body = {"choices": [choice | {"finish_reason": "length"}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    server.reply(http(200, body))
    assert ask(backend) == Answer("Hi END there", "Hm", "length", Usage(1, 2))
    server.reply(http(200, body))
    assert ask(backend, {"stop": ["END"]}).text == "Hi "


def test_a_stop_text_that_the_server_includes_is_cut_off(server: FaultServer, connect: Connect) -> None:
    server.reply(EVENTS + delta("Hi E") + delta("ND and") + delta(" more"), repeat(delta(" and more")))
    assert ask(connect(server.url, timeout=0.3), {"stop": ["END"]}) == Answer("Hi ", finish="stop")
    assert server.left.wait(5)


def test_what_might_have_become_a_stop_text_is_shown_at_the_end(server: FaultServer, backend: OpenAIBackend) -> None:
    server.reply(answer("Hi EN"))
    assert ask(backend, {"stop": ["END"]}).text == "Hi EN"


def test_a_server_that_never_ends_a_complete_answer_is_left(server: FaultServer, connect: Connect) -> None:
    server.reply(EVENTS + delta("Hi", "stop"), HANG)
    assert ask(connect(server.url, timeout=0.3)) == Answer("Hi", finish="stop")


# Several answers, and Stop


def test_a_service_writes_several_answers_at_once(server: FaultServer, tmp_path: Path, canary: None) -> None:
    gate = threading.Event()
    server.reply(EVENTS + delta("Hi"), gate, delta(finish="stop") + DONE)
    forge = LlamaForge(tmp_path)
    forge.add_model("gpt", "tiny", "openai", {"api_base": server.url, "parallel": 3})
    forge.load_model("gpt")
    answers = [forge.generate_stream("Hello") for _ in range(4)]
    until(lambda: [answer.text for answer in answers].count("Hi") == 3)
    assert sum(answer.running for answer in answers) == 3
    answers[0].stop()
    until(lambda: all(answer.text == "Hi" for answer in answers))
    gate.set()
    results = [answer.wait(5) for answer in answers]
    forge.unload_model()
    assert sorted(result.finish_reason for result in results if result) == ["cancelled", "stop", "stop", "stop"]


def stop_when(server: FaultServer, backend: OpenAIBackend, arrived: str) -> float:
    """Stop an answer once something has arrived at the server; return how long the server waited for the end."""
    seen: list[Answer] = []
    asking = threading.Thread(target=lambda: seen.append(ask(backend)))
    asking.start()
    server.await_arrival(arrived)
    told = time.monotonic()
    backend.stop()
    assert server.left.wait(5)
    waited = time.monotonic() - told
    asking.join(5)
    assert seen[0].finish == "cancelled" and seen[0].error is None
    return waited


def test_stop_closes_the_connection_while_it_is_made(connect: Connect) -> None:
    server = FaultServer()
    server.handshakes = False
    try:
        assert stop_when(server, connect(server.url.replace("http:", "https:")), "connection") < 1
    finally:
        server.close()


@pytest.mark.parametrize(
    "steps",
    [(HANG,), (b"HTTP/1.1 200 OK\r\nX-", HANG), (EVENTS, HANG), (EVENTS + delta("Hi") + b"data: {", HANG)],
    ids=["no header", "half a header", "no word", "half a word"],
)
def test_stop_closes_the_connection_at_any_byte(
    server: FaultServer, backend: OpenAIBackend, steps: tuple[Any, ...]
) -> None:
    server.reply(*steps)
    assert stop_when(server, backend, "request") < 1


def test_a_stopped_answer_keeps_its_text_and_the_next_one_works(server: FaultServer, backend: OpenAIBackend) -> None:
    server.reply(EVENTS + delta("Hi"), HANG)
    server.reply(answer("Again"))
    stream = backend.chat_stream(CHAT)
    assert [next(stream).text, next(stream).text] == ["", "Hi"]  # type: ignore[union-attr]
    backend.stop()
    assert [chunk.finish_reason for chunk in stream][-1] == "cancelled"  # type: ignore[union-attr]
    backend.stop()
    assert ask(backend).text == "Again"


def test_a_reader_who_leaves_closes_the_connection(server: FaultServer, backend: OpenAIBackend) -> None:
    server.reply(EVENTS + delta("Hi"), HANG)
    stream = backend.chat_stream(CHAT)
    assert [next(stream).text, next(stream).text] == ["", "Hi"]  # type: ignore[union-attr]
    stream.close()  # type: ignore[attr-defined]
    assert server.left.wait(5)


def test_unloading_ends_what_is_being_answered(server: FaultServer, connect: Connect) -> None:
    backend = connect(server.url)
    server.reply(HANG)
    seen: list[Answer] = []
    asking = threading.Thread(target=lambda: seen.append(ask(backend)))
    asking.start()
    server.await_arrival("request")
    backend.unload_model()
    asking.join(5)
    assert isinstance(seen[0].error, NoModelLoaded) and server.left.wait(5)
    assert not [thread for thread in threading.enumerate() if thread.name == "llamaforge-service"]


# The package and the models


def test_importing_the_backend_does_not_import_the_package() -> None:
    script = "import llamaforge.backends.openai, sys; print('openai' in sys.modules, 'httpx' in sys.modules)"
    assert run_python(script).stdout == "False False\n"


def test_a_package_that_is_missing_or_too_old_is_named_with_its_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_version(tmp_path, "openai", "1.3")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendMissing, match="openai 1.3 is too old.*pip install"):
        OpenAIBackend().check("gpt", {"api_base": "http://127.0.0.1:1/v1"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendMissing, match="not installed.*pip install"):
        OpenAIBackend().check("gpt", {"api_base": "http://127.0.0.1:1/v1"})


def test_the_models_of_a_service_are_listed(server: FaultServer, backend: OpenAIBackend) -> None:
    server.reply(http(200, {"object": "list", "data": [{"id": "b"}, {"id": "a"}]}))
    assert backend.list_models() == service_models({"api_base": server.url}) == ["a", "b"]
    assert server.requests[0].line == "GET /v1/models HTTP/1.1"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (http(200, "<html>Sign in</html>", "text/html"), "web page"),
        (http(200, {"data": [{"name": "x"}]}), "OpenAI-compatible"),
        (http(401, {}), "refused the key from $CANARY_API_KEY"),
        (http(404, {}), "Nothing found"),
        (b"", "closed the connection"),
    ],
)
def test_models_that_cannot_be_listed_are_a_sentence(
    server: FaultServer, backend: OpenAIBackend, reply: bytes, words: str
) -> None:
    server.reply(reply)
    with pytest.raises(ServiceError) as caught:
        backend.list_models()
    assert words in str(caught.value)
