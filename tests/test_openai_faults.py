"""Everything a service can do wrong: each time one plain sentence, the text so far, and no key in it."""

from __future__ import annotations

import datetime
import gzip
import json
import resource
from collections.abc import Iterator
from email.utils import format_datetime
from itertools import repeat
from typing import Any

import pytest
from fault_server import DONE, EVENTS, HANG, RESET, FaultServer, answer, delta, event, http, refusal
from openai_kit import CANARY, Connect, ask, require_plain

from llamaforge import (
    ContextOverflow,
    KeyRefused,
    LlamaForgeError,
    NotCompatible,
    ServiceBusy,
    ServiceError,
    ServiceUnreachable,
)
from llamaforge.backends.openai import OpenAIBackend
from llamaforge.backends.openai_address import endpoint_of
from llamaforge.backends.openai_errors import Refusal, refused
from llamaforge.backends.openai_stream import AnswerReader

ECHO = f"Authorization: Bearer {CANARY} and {CANARY} \x1b[31m in /home/me/secret.py"
TOO_LONG = (
    "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in the messages)."
)
LLAMA_TOO_LONG = {
    "message": "too long",
    "code": 400,
    "type": "exceed_context_size_error",
    "n_prompt_tokens": 9,
    "n_ctx": 8,
}
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (refusal(401, ECHO), KeyRefused, "refused the key from $CANARY_API_KEY. Check that it is right and active."),
        (refusal(403, ECHO), KeyRefused, "refused the key from $CANARY_API_KEY"),
        (refusal(403, "Country not supported"), KeyRefused, "Country not supported"),
        (refusal(402, "Insufficient Balance"), ServiceBusy, "Your account at the service has no credit left."),
        (refusal(429, "…", code="insufficient_quota"), ServiceBusy, "has no credit left."),
        (http(404, {"detail": "Not Found"}), ServiceError, "Nothing found at http://127.0.0.1:"),
        (http(404, "<html>nginx</html>", "text/html"), ServiceError, "Nothing found at"),
        (refusal(404, f"The model `x` does not exist {ECHO}"), ServiceError, "has no model 'tiny'"),
        (refusal(404, "Nope", code="model_not_found"), ServiceError, "has no model 'tiny'"),
        (http(405, b""), ServiceError, "Nothing found at"),
        (refusal(400, f"Invalid value for temperature. {ECHO}"), ServiceError, "said: Invalid value for temperature."),
        (http(422, {"detail": [{"loc": ["body", "n"], "msg": "bad"}]}), ServiceError, "said: body.n: bad"),
        (http(400, f"no JSON {ECHO}", "text/plain"), ServiceError, "said: no JSON"),
        (http(400, b""), ServiceError, "did not say why"),
        (http(400, DEEP), ServiceError, "did not say why"),
        (refusal(400, TOO_LONG), ContextOverflow, "too long for the model (9,000 of 8,192 tokens)"),
        (http(400, {"error": LLAMA_TOO_LONG}), ContextOverflow, "too long for the model (9 of 8 tokens)"),
        (refusal(400, "?", code="context_length_exceeded"), ServiceError, "This chat is too long for the model."),
        (http(400, "plain HTTP request was sent to HTTPS port"), ServiceUnreachable, "Write https://"),
        (refusal(418, f"teapot {ECHO}"), ServiceError, "said: teapot"),
        (refusal(500, ECHO), ServiceError, "has a problem of its own (500). Try again in a minute."),
        (http(503, "<html>maintenance</html>", "text/html"), ServiceError, "a problem of its own (503)"),
        (http(504, b""), ServiceError, "took too long to answer (504)"),
        (http(302, b"", Location="http://evil.example/v1?k=1"), ServiceError, "redirects to http://evil.example/v1,"),
        (http(307, b"", Location="/v2/chat"), ServiceError, "redirects to /v2/chat,"),
        (http(301, b""), ServiceError, "redirects to another address"),
        (http(200, "<!DOCTYPE html>Sign in", "text/html"), NotCompatible, "The address returned a web page."),
        (http(200, "<html>Sign in", "text/event-stream"), NotCompatible, "The address returned a web page."),
        (http(200, "It works!", "text/plain"), NotCompatible, "Is it OpenAI-compatible?"),
        (http(200, b""), NotCompatible, "sent an empty answer"),
        (http(200, " \r\n\n"), NotCompatible, "sent an empty answer"),
        (http(200, {"hello": "world"}), NotCompatible, "Is it OpenAI-compatible?"),
        (http(200, "[1, 2]"), NotCompatible, "Is it OpenAI-compatible?"),
        (http(200, '{"choices": [{"mess'), NotCompatible, "Is it OpenAI-compatible?"),
        (http(200, DEEP), NotCompatible, "Is it OpenAI-compatible?"),
        (http(200, {"error": {"message": ECHO}}), ServiceError, "The service said: Authorization"),
        (http(200, {"detail": "overloaded"}), ServiceError, "The service said: overloaded"),
        (http(200, gzip.compress(bytes(10**7)), Content_Encoding="gzip"), NotCompatible, "compressed"),
        (http(400, gzip.compress(bytes(10**7)), Content_Encoding="gzip"), NotCompatible, "compressed"),
        (b"", ServiceUnreachable, "closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", ServiceUnreachable, "closed the connection without an answer"),
        (b"HTTP/1.1 999999 no\r\n\r\n", ServiceUnreachable, "closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, ServiceUnreachable, "closed the connection without an answer"),
    ],
    ids=lambda value: value[9:12].decode() if isinstance(value, bytes) else None,
)
def test_a_service_that_refuses_is_one_sentence(
    server: FaultServer, backend: OpenAIBackend, reply: bytes, kind: type[LlamaForgeError], words: str
) -> None:
    server.reply(reply)
    done = ask(backend)
    assert words in require_plain(done.error) and isinstance(done.error, kind)
    assert done.text == "" and len(server.requests) == 1


def test_a_service_that_wants_a_key_says_so(server: FaultServer, connect: Connect) -> None:
    server.reply(refusal(401, "no key"))
    assert "api_key: ${OPENAI_API_KEY}" in require_plain(ask(connect(server.url, api_key=None)).error)
    server.reply(refusal(401, "no key"))
    assert "the key in the model's parameters" in require_plain(ask(connect(server.url, api_key=CANARY)).error)


@pytest.mark.parametrize(
    ("rest", "kind", "words"),
    [
        ((b"",), ServiceUnreachable, "broke in the middle of the answer"),
        ((b"data: {",), NotCompatible, "Is it OpenAI-compatible?"),
        ((RESET,), ServiceUnreachable, "broke in the middle of the answer"),
        ((b"data: {not JSON}\n\n",), NotCompatible, "Is it OpenAI-compatible?"),
        ((b"data: 7\n\n",), NotCompatible, "Is it OpenAI-compatible?"),
        ((b"data: " + DEEP.encode() + b"\n\n",), NotCompatible, "Is it OpenAI-compatible?"),
        ((b"<html>\n",), NotCompatible, "Is it OpenAI-compatible?"),
        ((b"data: " + b"x" * 2**21,), NotCompatible, "Is it OpenAI-compatible?"),
        ((delta("x" * 2**20),), NotCompatible, "Is it OpenAI-compatible?"),
        ((event(error={"message": ECHO}),), ServiceError, "The service said:"),
        ((b'{"error": {"message": "out of memory"}}\n',), ServiceError, "The service said: out of memory"),
        ((b'error: {"message": "out of memory"}\n\n',), ServiceError, "broke in the middle"),
        ((HANG,), ServiceUnreachable, "stopped in the middle of the answer: nothing came for"),
    ],
)
def test_an_answer_that_breaks_off_keeps_its_text(
    server: FaultServer, connect: Connect, rest: tuple[Any, ...], kind: type[LlamaForgeError], words: str
) -> None:
    server.reply(EVENTS + delta("Hello ") + delta("wor"), *rest)
    done = ask(connect(server.url, timeout=0.5), {"stop": ["world"]})
    assert done.text == "Hello wor" and words in require_plain(done.error) and isinstance(done.error, kind)
    assert done.finish is None and len(server.requests) == 1


def test_half_a_chunk_of_http_keeps_the_text(server: FaultServer, backend: OpenAIBackend) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    word = delta("Hello")
    server.reply(head + b"%x\r\n%b\r\nffff\r\nhalf" % (len(word), word))
    done = ask(backend)
    assert done.text == "Hello" and "broke in the middle" in require_plain(done.error)


@pytest.mark.parametrize(
    "steps",
    [(HANG,), (b"HTTP/1.1 200 OK\r\nX-", HANG), (EVENTS, HANG), (EVENTS + delta(role="assistant"), HANG)],
    ids=["no header", "half a header", "no word", "a role"],
)
def test_silence_ends_after_the_timeout(server: FaultServer, connect: Connect, steps: tuple[Any, ...]) -> None:
    server.reply(*steps)
    done = ask(connect(server.url, timeout=0.3))
    assert "sent nothing for 1 second. Try again, or raise timeout." in require_plain(done.error)
    assert isinstance(done.error, ServiceUnreachable) and server.left.wait(5)


@pytest.mark.parametrize(
    "endless",
    [
        lambda: repeat(delta("x" * 500_000)),
        lambda: repeat(b"y" * 500_000),
        lambda: repeat(delta(reasoning="z" * 500_000)),
    ],
    ids=["events", "one line", "thoughts"],
)
def test_an_endless_answer_is_ended_in_little_memory(
    server: FaultServer, backend: OpenAIBackend, endless: Any
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    server.reply(EVENTS + delta("Hi"), endless())
    done = ask(backend)
    assert done.text.startswith("Hi") and isinstance(done.error, NotCompatible) and require_plain(done.error)
    assert server.left.wait(5)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_an_endless_refusal_is_read_no_further_than_needed(server: FaultServer, backend: OpenAIBackend) -> None:
    server.reply(b"HTTP/1.1 500 No\r\nContent-Type: text/plain\r\n\r\n", repeat(b"no " * 1000))
    assert "(500)" in require_plain(ask(backend).error) and server.left.wait(5)


ANSWER = delta("Hello ", reasoning="Hm") + b": ping\n\n" + delta("wörld", "stop") + DONE
ODD: list[Any] = [None, True, -1, 1.5, 10**30, "", "x", [], [None], ["x"], [[]], {}, {"message": []}, {"code": {}}]


def read(data: bytes) -> tuple[str, LlamaForgeError | None]:
    """Read an answer without a connection."""
    reader = AnswerReader(endpoint_of({"api_base": "http://127.0.0.1:1/v1"}), ["world"])
    text = ""
    try:
        for chunk in [*reader.feed(data[:20]), *reader.feed(data[20:]), *reader.end(), reader.rest()]:
            text += chunk.text
    except LlamaForgeError as error:
        return text, error
    return text, None


def test_an_answer_that_is_cut_at_any_byte_ends_in_an_error_or_is_complete() -> None:
    assert read(ANSWER) == ("Hello wörld", None)
    for end in range(len(ANSWER) - len(DONE)):
        text, error = read(ANSWER[:end])
        assert error is not None and require_plain(error) or text == "Hello wörld"


def test_an_answer_with_any_byte_changed_is_survived() -> None:
    for place in range(len(ANSWER)):
        for byte in (b"\x00", b"\n", b'"', b"\xff"):
            _text, error = read(ANSWER[:place] + byte + ANSWER[place + 1 :])
            assert error is None or require_plain(error)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container in a JSON value with each of its keys."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def test_an_answer_with_any_value_of_an_unexpected_kind_is_survived() -> None:
    said = {"choices": [{"delta": {"content": "Hi", "reasoning": "Hm"}, "finish_reason": "stop"}]}
    said |= {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}}
    refused_as = {"error": {"message": "no", "code": "x", "type": "y"}, "detail": [{"loc": ["a"], "msg": "b"}]}
    endpoint = endpoint_of({"api_base": "http://127.0.0.1:1/v1"})
    for whole in (said, refused_as):
        for container, key in list(places(whole)):
            kept = container[key]
            for odd in ODD:
                container[key] = odd
                for data in (event(**whole) + DONE, json.dumps(whole).encode()):
                    error = read(data)[1]
                    assert error is None or require_plain(error)
                for status in (400, 401, 403, 404, 429, 500):
                    require_plain(refused(Refusal(status, json.dumps(whole)), endpoint, "tiny"))
            container[key] = kept


# Too many requests


def now_plus(seconds: float) -> str:
    return format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("after", ["0", "0.05", now_plus(-5)], ids=["now", "soon", "a date that is past"])
def test_a_busy_service_is_asked_again_twice(server: FaultServer, backend: OpenAIBackend, after: str) -> None:
    for _ in range(2):
        server.reply(http(429, {"error": {"message": "slow down"}}, Retry_After=after))
    server.reply(answer("Hi"))
    assert ask(backend).text == "Hi" and len(server.requests) == 3


def test_a_service_that_stays_busy_is_an_error(server: FaultServer, backend: OpenAIBackend) -> None:
    server.reply(http(429, {}, Retry_After="0"))
    done = ask(backend)
    assert "Too many requests. Try again in 1 second." in require_plain(done.error) and len(server.requests) == 3


@pytest.mark.parametrize(
    ("after", "said"),
    [("86400", "24 hours"), ("31", "31 seconds"), ("", "2 hours"), ("999999999", "11574 days")],
    ids=["a day", "a little too long", "a date", "for ever"],
)
def test_a_long_wait_is_an_error_at_once(server: FaultServer, backend: OpenAIBackend, after: str, said: str) -> None:
    # A date is made only now: this test may run long after it was collected.
    server.reply(http(429, {}, Retry_After=after or now_plus(7200)))
    done = ask(backend)
    assert str(done.error) == f"Too many requests. Try again in {said}." and isinstance(done.error, ServiceBusy)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [({"Retry_After": "7"}, 7), ({"Retry_After": "soon"}, 2), ({}, 2), ({"Retry_After": "-4"}, 2)],
    ids=["seconds", "garbage", "none", "negative"],
)
def test_a_wait_is_shown_and_can_be_stopped(
    server: FaultServer, backend: OpenAIBackend, header: dict[str, str], seconds: int
) -> None:
    server.reply(http(429, {}, **header))
    notes, finish = [], None
    for chunk in backend.generate_stream("Hello"):
        assert not isinstance(chunk, str)
        finish = chunk.finish_reason
        if chunk.note:
            notes.append(chunk.note)
            backend.stop()
    assert notes == [f"The service is busy; trying again in {seconds} s."]
    assert finish == "cancelled" and len(server.requests) == 1


def test_a_complete_answer_is_an_answer_whatever_follows(server: FaultServer, backend: OpenAIBackend) -> None:
    server.reply(EVENTS + delta("Hi", "stop") + b"data: {broken\n\n", RESET)
    assert (ask(backend).text, ask(backend).error) == ("Hi", None)
    server.reply(EVENTS + delta("Hi", "stop") + DONE + b"data: {broken\n\n")
    assert ask(backend).error is None
