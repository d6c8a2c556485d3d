"""A plugin that puts words of your own around what is sent: before the system prompt, and around each message."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date

from pydantic import Field

from ..backends.parameters import Parameters
from ..types import Message
from .base import Plugin

PLACEHOLDER = re.compile(r"\{(message|date|model)\}")


class Template(Plugin):
    """Fills the placeholders of its two texts and puts them into the chat."""

    api = 1
    about = "Puts words of your own before the system prompt and around each message; its settings say which."

    class Settings(Parameters):
        system: str = Field(
            default="",
            description="What stands before the system prompt. {date} is today, {model} the model's name.",
            max_length=100_000,
            examples=["Today is {date}."],
        )
        user: str = Field(
            default="{message}",
            description="What is sent in place of each message of yours; {message} is what you wrote.",
            pattern=r"\{message\}",
            max_length=100_000,
            examples=["{message} Answer in one sentence."],
        )

    def before(self, messages: list[Message]) -> list[Message]:
        # Around each, not the last alone: what was sent once stays the same, and need not be read again.
        chat = [
            replace(one, content=self._filled(self.settings.user, one.content)) if one.role == "user" else one
            for one in messages
        ]
        words = self._filled(self.settings.system)
        if not words:
            return chat
        if chat[0].role == "system":
            return [replace(chat[0], content=f"{words}\n\n{chat[0].content}"), *chat[1:]]
        return [Message("system", words), *chat]

    def _filled(self, text: str, message: str = "") -> str:
        """Return a text with its placeholders filled; all other braces stay as they are."""
        values = {"message": message, "date": date.today().isoformat(), "model": self.model.name}
        return PLACEHOLDER.sub(lambda place: values[place[1]], text)
