"""What is asked of a service, and how to ask again in its own dialect where it refuses a word of it."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..text_stream import clean_text
from ..types import Image, Message
from .openai_address import Endpoint
from .openai_errors import Refusal

logger = logging.getLogger("llamaforge")

# Our name, and the names that servers know it by; none is a parameter of OpenAI's own service.
EXTRA = {
    "top_k": ("top_k",),
    "min_p": ("min_p",),
    "repeat_penalty": ("repeat_penalty", "repetition_penalty"),
}
PLAIN = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
MOST_STOPS = 4  # that OpenAI's own service takes; the others are heeded here

_REASONING_MODEL = re.compile(r"(?:o[134]|gpt-5)(?:$|[^a-z0-9])|gpt-5")
_UNKNOWN_FIELD = re.compile(
    r"unknown|unrecogni[sz]ed|unexpected|unsupported|not supported|not permitted|extra (?:fields|inputs)|forbidden",
    re.IGNORECASE,
)


# No service has a common way to leave an answer open.
GO_ON = "Continue your last message exactly where it stops, in the middle of a word if need be. Repeat nothing of it."


@dataclass(slots=True)
class Dialect:
    """What a service was found to take; kept as long as its model is loaded."""

    extra: bool = True
    usage: bool = True
    max_tokens: str = "max_tokens"
    tried: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, endpoint: Endpoint, model: str) -> Dialect:
        if not endpoint.is_openai:
            return cls()
        newer = _REASONING_MODEL.match(model.lower()) is not None
        return cls(extra=False, max_tokens="max_completion_tokens" if newer else "max_tokens")

    def learn(self, refusal: Refusal, body: Mapping[str, Any]) -> str | None:
        """Take a lesson from a refusal of a request; return what to say of it, None where there is none."""
        if refusal.status not in (400, 422):
            return None
        if "max_tokens" in body and refusal.mentions("max_completion_tokens"):
            self.max_tokens = "max_completion_tokens"
            return ""
        sent = [name for name, names in EXTRA.items() if any(wire in body for wire in names)]
        doubted = _UNKNOWN_FIELD.search(refusal.body) is not None
        names_usage = refusal.mentions("stream_options", "include_usage")
        if sent and not names_usage and (doubted or refusal.mentions(*sent, "repetition_penalty")):
            self.extra = False
            return f"The service does not know {', '.join(sent)}; the answer goes without."
        if "stream_options" in body and (names_usage or doubted):
            self.usage = False
            return ""
        return None


def body_of(model: str, messages: Sequence[Message], settings: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
    """Return the request; what is not set is not in it."""
    body: dict[str, Any] = {
        "model": model,
        "messages": messages_of(messages),
        "stream": True,
    }
    if dialect.usage:
        body["stream_options"] = {"include_usage": True}
    body |= {name: settings[name] for name in PLAIN if settings.get(name) is not None}
    if settings.get("max_tokens") is not None:
        body[dialect.max_tokens] = settings["max_tokens"]
    if stop := [text for text in settings.get("stop") or [] if text]:
        body["stop"] = stop[:MOST_STOPS]
    if dialect.extra:
        body |= {wire: settings[name] for name, names in EXTRA.items() for wire in names if _is_set(settings, name)}
    return body


def messages_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return a chat as a service is sent it."""
    sent = [{"role": message.role, "content": _content(message)} for message in messages]
    continued = bool(messages) and messages[-1].role == "assistant"
    return [*sent, {"role": "user", "content": GO_ON}] if continued else sent


def _content(message: Message) -> str | list[dict[str, Any]]:
    """Return a message's text, or its parts where it holds pictures: many servers know plain texts only."""
    text = clean_text(message.content)
    if not message.images:
        return text
    return [*map(_picture, message.images), {"type": "text", "text": text}]


def _picture(image: Image) -> dict[str, Any]:
    data = base64.b64encode(image.data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{image.media_type};base64,{data}"}}


def _is_set(settings: Mapping[str, Any], name: str) -> bool:
    return settings.get(name) is not None
