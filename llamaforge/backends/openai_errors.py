"""What a service refuses, and every way in which a connection fails, as one plain sentence each.

The sentence says what happened and what to do. What a server wrote is quoted, but shortened and without keys.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from ..errors import (
    ContextOverflow,
    GenerationError,
    KeyRefused,
    LlamaForgeError,
    NotCompatible,
    ServiceBusy,
    ServiceError,
    ServiceUnreachable,
)
from .keys import plain
from .openai_address import Endpoint

CONNECT_SECONDS = 10.0
CHUNK_SECONDS = 30.0
LONGEST_QUOTE = 160
DEFAULT_WAIT = 2.0
COMPATIBLE = "Is it OpenAI-compatible?"
NOT_UNDERSTOOD = f"The service sent data that this program does not understand. {COMPATIBLE}"
TOO_LONG = "This chat is too long for the model. Start a new chat or shorten the message."

_CONTEXT = re.compile(r"context[_ ](?:length|window|size)|maximum context|too many (?:input )?tokens", re.IGNORECASE)
_TOO_LONG = ("context_length_exceeded", "exceed_context_size_error")
_TOKENS = (
    re.compile(r"tokens \((?P<tokens>\d+)\) exceeds? (?:the )?context window of (?P<window>\d+)"),
    re.compile(r"tokens \((?P<tokens>\d+)\) exceed.*?context.*?\((?P<window>\d+)"),
    re.compile(
        r"context length is (?P<window>\d+) tokens.*?(?:requested|resulted in|contains at least) (?P<tokens>\d+)"
    ),
)
# How OpenAI, vLLM, llama-server, llama-cpp-python, Ollama, LM Studio, OpenRouter and DeepSeek refuse a picture.
_BLIND = re.compile(
    r"(?:image(?! format| type)|vision|multi-?modal)[^.]{0,60}(?:not (?:support|enabled|available)|only supported by)"
    r"|(?:not|n't) (?:support|accept|have|handle)[^.]{0,30}(?:image|vision|multi-?modal)|not a multi-?modal model"
    r"|at most 0 image|missing data required for image|no endpoints found that support image"
    r"|unknown variant .?image_url|content must be a string",
    re.IGNORECASE,
)
_NO_CREDIT = ("insufficient_quota", "insufficient_balance", "billing_hard_limit_reached", "billing_not_active")


@dataclass(eq=False)
class Refusal(Exception):
    """An answer whose status is no 2xx: what it says, before anybody decides what that means."""

    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def error(self) -> dict[str, Any]:
        """The error as OpenAI's API describes one: "message", "type", "code"; as much of it as there is."""
        return error_of(_parsed(self.body))

    @property
    def said(self) -> str:
        """The server's own words; empty where it sent a web page or nothing."""
        message = self.error.get("message")
        if isinstance(message, str):
            return message
        return "" if self.body.lstrip()[:1] in ("<", "{", "[") else self.body

    @property
    def retry_after(self) -> float:
        """The seconds after which the server wants to be asked again."""
        stated = self.headers.get("retry-after", "").strip()
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", stated):
            return float(stated)
        try:
            moment = parsedate_to_datetime(stated)
        except (ValueError, TypeError, IndexError, OverflowError):
            return DEFAULT_WAIT
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())

    @property
    def is_blind(self) -> bool:
        """Whether pictures were refused, as the model cannot see any; asked where some were sent."""
        return _BLIND.search(self.said) is not None

    @property
    def is_without_credit(self) -> bool:
        return self.status == 402 or self.is_one_of(_NO_CREDIT)

    def is_one_of(self, kinds: tuple[str, ...]) -> bool:
        return any(self.error.get(key) in kinds for key in ("code", "type"))

    def mentions(self, *words: str) -> bool:
        return any(word in self.body for word in words)


def error_of(data: Any) -> dict[str, Any]:
    """Return what a body says of an error, in the shapes that are in use: OpenAI's, FastAPI's, a bare text."""
    if not isinstance(data, dict):
        return {}
    found = data.get("error") or data.get("detail") or data.get("message")
    if isinstance(found, dict):
        return found
    if isinstance(found, list) and found and isinstance(found[0], dict):
        where = found[0].get("loc")
        place = ".".join(map(str, where)) if isinstance(where, list) else ""
        return {"message": f"{place}: {found[0].get('msg', '')}".strip(": ")}
    return {"message": found, "code": data.get("code")} if isinstance(found, str) else {}


def _parsed(body: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def sentence(
    endpoint: Endpoint, text: str, said: str = "", *, kind: type[ServiceError] = ServiceError
) -> ServiceError:
    """Return an error of a plain sentence, with the server's own words behind it where there are some."""
    secrets = endpoint.key.secrets()
    quote = plain(said, secrets, LONGEST_QUOTE)
    return kind(plain(f"{text} The service said: {quote}" if quote else text, secrets))


def refused(refusal: Refusal, endpoint: Endpoint, model: str) -> LlamaForgeError:
    """Return the error that a refusal is."""
    status, said = refusal.status, refusal.said
    if 300 <= status < 400:
        return _redirected(refusal, endpoint)
    if refusal.is_without_credit:
        return ServiceBusy("Your account at the service has no credit left.")
    if status == 401:
        return sentence(endpoint, _key_refused(endpoint), kind=KeyRefused)
    if status == 403:
        text = _key_refused(endpoint) if endpoint.key.is_set else f"{endpoint.host} refused access (403)."
        return sentence(endpoint, text, said, kind=KeyRefused)
    if status in (404, 405):
        return _not_found(refusal, endpoint, model)
    if status == 429:
        return ServiceBusy(f"Too many requests. Try again in {duration(refusal.retry_after)}.")
    if status in (408, 504, 524):
        return sentence(endpoint, f"{endpoint.host} took too long to answer ({status}). Try again.", said)
    if status >= 500:
        text = f"{endpoint.host} has a problem of its own ({status}). Try again in a minute."
        return sentence(endpoint, f"{text}{_by_way_of(endpoint)}", said)
    return _rejected(refusal, endpoint)


def told(error: dict[str, Any], endpoint: Endpoint) -> LlamaForgeError:
    """Return the error that a server reports in the middle of an answer."""
    return _rejected(Refusal(400, json.dumps({"error": error})), endpoint)


def _rejected(refusal: Refusal, endpoint: Endpoint) -> LlamaForgeError:
    said = refusal.said
    if refusal.is_one_of(_TOO_LONG) or _CONTEXT.search(said):
        return _too_long(refusal)
    if "HTTPS port" in refusal.body:
        return sentence(
            endpoint, f"{endpoint.host} speaks only https. Write https:// in api_base.", kind=ServiceUnreachable
        )
    if said:
        return sentence(endpoint, "The service did not accept the message.", said)
    return sentence(endpoint, f"The service did not accept the message ({refusal.status}) and did not say why.")


def _too_long(refusal: Refusal) -> GenerationError:
    advice = "Start a new chat or shorten the message."
    tokens, window = refusal.error.get("n_prompt_tokens"), refusal.error.get("n_ctx")
    if isinstance(tokens, int) and isinstance(window, int):
        return ContextOverflow(tokens, window, advice)
    for pattern in _TOKENS:
        if found := pattern.search(refusal.said):
            return ContextOverflow(int(found["tokens"]), int(found["window"]), advice)
    return ServiceError(TOO_LONG)


def _key_refused(endpoint: Endpoint) -> str:
    if not endpoint.key.is_set:
        return f"{endpoint.host} wants a key. Add to the model's parameters: api_key: ${{OPENAI_API_KEY}}"
    whose = f"from ${endpoint.key.variable}" if endpoint.key.variable else "in the model's parameters"
    return f"The service refused the key {whose}. Check that it is right and active."


def _not_found(refusal: Refusal, endpoint: Endpoint, model: str) -> ServiceError:
    error = refusal.error
    if error.get("code") == "model_not_found" or ("model" in refusal.said.lower() and error):
        name = plain(model, endpoint.key.secrets(), 60)
        return sentence(endpoint, f"The service has no model {name!r}. Check the model's path.", refusal.said)
    advice = "" if endpoint.url.endswith("/v1") else " The address usually ends in /v1."
    return sentence(endpoint, f"Nothing found at {endpoint.url}.{advice or ' Check api_base.'}")


def _redirected(refusal: Refusal, endpoint: Endpoint) -> ServiceError:
    parts = urlsplit(refusal.headers.get("location", ""))
    where = f"{parts.scheme}://{parts.hostname}{parts.path}" if parts.hostname else parts.path or "another address"
    return sentence(
        endpoint,
        f"{endpoint.host} redirects to {plain(where, (), 100)}, which is not followed, "
        "so that your key goes nowhere else. Set api_base to the right address.",
    )


def duration(seconds: float) -> str:
    """Return a time to wait for people: "7 seconds", "2 minutes", "24 hours"."""
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size * (2 if unit == "day" else 1):
            return _count(round(seconds / size), unit)
    return _count(max(1, round(seconds)), "second")


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def disconnected(failure: BaseException, endpoint: Endpoint, *, begun: bool = False) -> LlamaForgeError:
    """Return the error that a failed connection is.

    Args:
        begun: the answer had begun already.
    """
    causes = list(_causes(failure))
    if ours := next((cause for cause in causes if isinstance(cause, LlamaForgeError)), None):
        return ours
    if begun:
        return broken(endpoint)
    text = _tls(causes, endpoint) or _way(causes, endpoint)
    return sentence(endpoint, text, kind=ServiceUnreachable)


def broken(endpoint: Endpoint) -> ServiceError:
    return ServiceUnreachable(f"The connection to {endpoint.host} broke in the middle of the answer. Try again.")


def connect_seconds(endpoint: Endpoint) -> float:
    """Return how long a connection may take, a little less than the first byte, so that it is the one to be named."""
    return min(CONNECT_SECONDS, 0.9 * endpoint.timeout)


def silent(endpoint: Endpoint, seconds: float, *, begun: bool) -> ServiceError:
    """Return the error that a service is which says nothing more."""
    if begun:
        text = f"{endpoint.host} stopped in the middle of the answer: nothing came for {duration(seconds)}. Try again."
    else:
        text = f"{endpoint.host} sent nothing for {duration(seconds)}. Try again, or raise timeout."
    return ServiceUnreachable(text)


def _way(causes: list[BaseException], endpoint: Endpoint) -> str:
    host = endpoint.host
    kinds = {type(cause).__name__ for cause in causes}
    if endpoint.proxy and kinds & {"ProxyError", "ConnectError", "ConnectTimeout"}:
        return f"{host} cannot be reached{_by_way_of(endpoint)}. Check the proxy, or unset its environment variable."
    if kinds & {"gaierror"} or any(isinstance(cause, socket.gaierror) for cause in causes):
        return f"The name {host} is not known. Check api_base and your network."
    if kinds & {"ConnectTimeout"}:
        seconds = duration(connect_seconds(endpoint))
        return f"{host} could not be reached within {seconds}. Check api_base and your network."
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return f"Nothing answers at {host}. Is the server running there?"
    if kinds & {"RemoteProtocolError", "ReadError", "ConnectionResetError", "WriteError"}:
        return f"{host} closed the connection without an answer. {COMPATIBLE}"
    return f"{host} cannot be reached. Check api_base and your network."


def _by_way_of(endpoint: Endpoint) -> str:
    return f" via the proxy {endpoint.proxy}" if endpoint.proxy else ""


def _tls(causes: list[BaseException], endpoint: Endpoint) -> str | None:
    failure = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if failure is None:
        return None
    if not isinstance(failure, ssl.SSLCertVerificationError):
        if failure.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
            return f"{endpoint.host} does not speak https. Check the port, or write http:// in api_base."
        if "PROTOCOL" in str(failure.reason):
            return f"{endpoint.host} speaks only outdated encryption. Its owner must allow TLS 1.2 or newer."
        return f"No secure connection to {endpoint.host} could be made. Check api_base."
    reasons = {
        10: "it has expired",
        9: "it is not valid yet",
        18: "it is self-signed. If you trust it, name its file in ca_bundle",
        62: "it is for another host. Check api_base",
        64: "it is for another host. Check api_base",
    }
    unknown = "nobody known has signed it. If you trust it, name its authority's file in ca_bundle"
    return f"The certificate of {endpoint.host} is not accepted: {reasons.get(failure.verify_code, unknown)}."


def _causes(failure: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and everything that led to it."""
    waiting, seen = [failure], set[int]()
    while waiting:
        cause = waiting.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [cause.__cause__, cause.__context__]
        if isinstance(cause, BaseExceptionGroup):
            waiting += cause.exceptions


def page_or_text(start: str) -> NotCompatible:
    """Return the error that an answer is which is neither events nor JSON."""
    if start.lstrip()[:1] == "<":
        return NotCompatible(f"The address returned a web page. Check api_base. {COMPATIBLE}")
    return NotCompatible(NOT_UNDERSTOOD)
