"""Turns a chat into a model's prompt with the model's own Jinja template, without trusting either."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import ModelError
from .text_stream import THINK_CLOSE, THINK_OPEN
from .types import Image, Message

NO_THOUGHTS = f"\n{THINK_CLOSE}\n\n"  # behind a template that opens them: what is continued is the answer
MOST_SECONDS = 2.0
MOST_CHARACTERS = 64 * 2**20  # no context window holds as much
MOST_TIMES = 10_000
PROBE = "?'\"!"  # looks different where a list of parts is only printed
PLAIN = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
"""Stands in for the template of a model that has none: the chat as base.plain_prompt spells it."""


class Segment(NamedTuple):
    """A part of a prompt: a text, or a picture. In literal parts no control token may be read."""

    text: str
    literal: bool
    image: Image | None = None


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which also refuses sums that only serve to fill the memory."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        many = max((value for value in (left, right) if isinstance(value, int)), default=0)
        if many > MOST_TIMES:
            raise jinja2.TemplateError(f"it computes with numbers over {MOST_TIMES:,}")
        return super().call_binop(context, operator, left, right)


class GenerationTag(Extension):
    """Lets {% generation %} be, by which templates tell transformers what to train on."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """One model's chat template.

    Args:
        source: the Jinja text of `tokenizer.chat_template`.
        control_tokens: texts that the tokenizer would read as control tokens ("<|im_end|>").
        picture: the text that stands for a picture in a prompt; where there is none, each is a segment of its own.

    Raises:
        ModelError: the template has an error.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        control_tokens: Iterable[str] = (),
        picture: str = "",
    ) -> None:
        # Sandboxed: a template comes from a model file and has run code on people's machines (CVE-2024-34359).
        environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationTag])
        environment.globals.update(raise_exception=_raise, strftime_now=lambda form: datetime.now().strftime(form))
        environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # a hostile one may exhaust the parser too
            raise _template_error(error) from error
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._picture = picture
        # Some templates take texts, some lists of parts, and some both; only parts make a template write of pictures.
        self._in_parts = (bool(picture) or not self._shows(PROBE)) and self._shows([{"type": "text", "text": PROBE}])
        alternatives = sorted((re.escape(text) for text in control_tokens if text), key=len, reverse=True)
        self._control = re.compile("|".join(alternatives)) if alternatives else None

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """Return the prompt in segments; where a message spells a control token, that text is a literal segment.

        Pictures stand before the text of their message: as segments of their own, or as the template writes them.
        Where the last message is the assistant's, the prompt ends with it and is open for what continues it. It stands
        where the answer began, behind what the template puts before one, so that the model reads it as it wrote it.

        Raises:
            ModelError: the template refuses the chat or has an error.
        """
        mark = secrets.token_hex(8)
        held: list[Segment] = []

        def hold(segment: Segment) -> str:
            held.append(segment)
            return f"{mark}:{len(held) - 1};"

        def guarded(text: str) -> str:
            if self._control is None:
                return text
            return self._control.sub(lambda match: hold(Segment(match.group(), literal=True)), text)

        def content(message: Message) -> Any:
            text = guarded(message.content)
            if self._in_parts and self._picture:
                return [*({"type": "image"} for _ in message.images), {"type": "text", "text": text}]
            places = [self._picture or hold(Segment("", literal=True, image=image)) for image in message.images]
            text = "\n".join([*places, text])
            return [{"type": "text", "text": text}] if self._in_parts else text

        open_end = messages[-1:] if messages and messages[-1].role == "assistant" else ()
        turns = messages[: len(messages) - len(open_end)]
        prompt = self._fill([{"role": message.role, "content": content(message)} for message in turns])
        if not prompt:
            raise _template_error(ValueError("it gives an empty prompt"))
        if cut := "".join(guarded(message.content) for message in open_end):
            prompt += f"{NO_THOUGHTS if prompt.rstrip().endswith(THINK_OPEN) else ''}{cut}"
        parts = re.split(f"{mark}:([0-9]+);", prompt)
        segments = [held[int(part)] if odd % 2 else Segment(part, literal=False) for odd, part in enumerate(parts)]
        return [segment for segment in segments if segment.text or segment.image]

    def _shows(self, content: Any) -> bool:
        """Tell whether the template writes the PROBE in a content: not every one takes every form of it."""
        try:
            return PROBE in self._fill([{"role": "user", "content": content}])
        except ModelError:
            return False

    def _fill(self, turns: list[dict[str, Any]]) -> str:
        try:
            return _bounded(self._template.generate(messages=turns, add_generation_prompt=True, **self._tokens))
        except jinja2.TemplateError as error:
            if turns and turns[0]["role"] == "system" and len(turns) > 1:
                return self._fill(_without_system(turns))
            raise _template_error(error) from error
        # A template may divide by zero or call what is not callable: any exception of it is the template's fault.
        except Exception as error:
            raise _template_error(error) from error


def opens_thoughts(messages: Sequence[Message], segments: Sequence[Segment]) -> bool:
    """Tell whether a prompt has opened the thoughts already; behind an answer that goes on, <think> is a word."""
    continued = bool(messages) and messages[-1].role == "assistant"
    return not continued and segments[-1].text.rstrip().endswith(THINK_OPEN)


def _bounded(pieces: Iterable[str]) -> str:
    """Join what a template writes, as long as it ends and fits; a loop that writes nothing is ended by Stop."""
    text: list[str] = []
    size, end = 0, time.monotonic() + MOST_SECONDS
    for piece in pieces:
        text.append(piece)
        size += len(piece)
        if size > MOST_CHARACTERS or time.monotonic() > end:
            raise jinja2.TemplateError("it does not end")
    return "".join(text)


def _without_system(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the system prompt before the first message, for templates that know no system role (Gemma, Mistral)."""
    system, first, *rest = turns
    if isinstance(first["content"], str):
        content: Any = f"{system['content']}\n\n{first['content']}"
    else:
        content = [*system["content"], {"type": "text", "text": "\n\n"}, *first["content"]]
    return [{"role": first["role"], "content": content}, *rest]


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _template_error(error: Exception) -> ModelError:
    return ModelError(
        f"The model's chat template has an error: {str(error)[:300]}. Choose another file of this model."
    )
