"""Chats as files: Markdown to read, JSON to keep, and the message lists of others to read in. Knows no Gradio."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from llamaforge import LlamaForgeError, clean_text

from .conversation import Conversation, title_of
from .history import ChatRecord, History, Record, new_id
from .pictures import clean_picture, thumbnail

FORMAT = 1
LARGEST_FILE = 5 * 2**20  # characters; the gate lets the owner send 8 MB
MOST_CHATS = 1_000
MOST_PICTURES = 64  # in one file
FOR_ALL = ("model", "finish_reason", "edited", "thumbnails")  # what a guest may know of an answer
MOST_MESSAGES = 20_000
READABLE = (
    "a file that LlamaForge exported, a list of messages as OpenAI has it ([{“role”: …, “content”: …}]), or "
    "ShareGPT's “conversations”"
)
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant"}


class CannotImport(LlamaForgeError):
    """A file holds no chats that can be read."""


class SavedMessage(BaseModel):
    """One message of our own format; `parent` is the id of an earlier one."""

    model_config = ConfigDict(extra="ignore")
    id: int
    parent: int | None = None
    role: Literal["user", "assistant"]
    text: str = ""
    reasoning: str = ""
    about: dict[str, Any] = {}
    created: float = 0.0
    images: list[str] = []  # base64


class SavedChat(BaseModel):
    """One chat of our own format, with all of its branches."""

    model_config = ConfigDict(extra="ignore")
    title: str = ""
    system_prompt: str = ""
    leaf: int | None = None
    messages: Annotated[list[SavedMessage], Field(max_length=MOST_MESSAGES)]


class SavedFile(BaseModel):
    """A file of our own."""

    model_config = ConfigDict(extra="ignore")
    chats: list[SavedChat]


class OpenAIMessage(BaseModel):
    """One message as OpenAI has it; of a content in parts, the texts count."""

    model_config = ConfigDict(extra="ignore")
    role: str
    content: str | list[dict[str, Any]] | None = ""

    @property
    def text(self) -> str:
        parts = self.content if isinstance(self.content, list) else [{"text": self.content or ""}]
        return "\n".join(str(part["text"]) for part in parts if isinstance(part.get("text"), str))


class ShareGPTMessage(BaseModel):
    """One message as ShareGPT has it."""

    model_config = ConfigDict(extra="ignore")
    sender: str = Field(alias="from")
    value: str = ""


@dataclass(frozen=True, slots=True)
class Imported:
    """A chat that was read from a file, every text of it clean."""

    chat: ChatRecord
    messages: list[Record]


# Out


def as_markdown(conversation: Conversation) -> str:
    """Return what was said on the branch that is shown, as a text to keep."""
    said = [(turn.model or "Model" if turn.role == "assistant" else "You", turn.text) for turn in conversation.turns]
    title = f"# {conversation.title}\n\n" if conversation.title else ""
    return title + "\n\n".join(f"**{who}**\n\n{text}" for who, text in said if text) + "\n"


def as_json(conversations: Sequence[Conversation], role: str = "owner") -> str:
    """Return chats with all of their versions, to be read in again; for the owner with their settings too.

    A guest is told neither the owner's words to the model nor how it is set, nor what an engine said of an error.
    """
    chats = [_saved(one, for_owner=role == "owner") for one in conversations]
    return json.dumps({"llamaforge": FORMAT, "chats": chats}, ensure_ascii=False)


def _saved(conversation: Conversation, *, for_owner: bool) -> dict[str, Any]:
    records = conversation.history.messages(conversation.id) if conversation.is_kept else []
    with_images = conversation.history.with_images(conversation.id)
    return {
        "title": conversation.title,
        "system_prompt": conversation.system_prompt if for_owner else "",
        "leaf": conversation.leaf,
        "messages": [
            {
                "id": record.id,
                "parent": record.parent,
                "role": record.role,
                "text": record.text,
                "reasoning": record.reasoning,
                "about": {name: value for name, value in record.about.items() if for_owner or name in FOR_ALL},
                "created": record.created,
                "images": _pictures(conversation.history, record.id) if record.id in with_images else [],
            }
            for record in records
        ],
    }


def _pictures(history: History, message: int) -> list[str]:
    return [base64.b64encode(image.data).decode() for image in history.images(message)]


def file_name(title: str, ending: str) -> str:
    """Return a name for a file of a chat that every system takes."""
    words = "".join(letter if letter.isalnum() else " " for letter in title).split()
    return f"{'-'.join(words)[:60] or 'chat'}-{datetime.now():%Y-%m-%d}.{ending}"


# In


def read_chats(text: str) -> list[Imported]:
    """Return the chats of a file.

    Raises:
        CannotImport: it is too large, or nothing that is known.
    """
    if len(text) > LARGEST_FILE:
        raise CannotImport(f"This file is too large: at most {LARGEST_FILE // 2**20} MB of text can be read in.")
    try:
        found = _chats_in(from_json(text, allow_inf_nan=False))
    except ValidationError as invalid:
        where = ".".join(map(str, invalid.errors()[0]["loc"]))
        raise CannotImport(f"This file cannot be read: {where} is not as expected. Known is {READABLE}.") from invalid
    except (ValueError, RecursionError) as error:
        raise CannotImport(f"This is no JSON file. Known is {READABLE}.") from error
    if sum(len(record.images) for one in found for record in one.messages) > MOST_PICTURES:
        raise CannotImport(f"At most {MOST_PICTURES} pictures can be read in at once. Read the chats in one by one.")
    if len(found) > MOST_CHATS:
        raise CannotImport(f"This file has {len(found):,} chats; at most {MOST_CHATS:,} can be read in at once.")
    if not any(one.messages for one in found):
        raise CannotImport(f"There are no messages in this file. Known is {READABLE}.")
    return [one for one in found if one.messages]


def _chats_in(value: Any) -> list[Imported]:
    if isinstance(value, dict) and "llamaforge" in value:
        if value["llamaforge"] != FORMAT:
            raise CannotImport("This file was exported by a newer LlamaForge. Update LlamaForge to read it.")
        return [_own(chat) for chat in SavedFile.model_validate(value).chats]
    if isinstance(value, list) and value and all(isinstance(one, dict) and "role" in one for one in value):
        return [_from_openai("", value)]
    return [_foreign(chat) for chat in (value if isinstance(value, list) else [value])]


def _foreign(chat: Any) -> Imported:
    if isinstance(chat, list):
        return _from_openai("", chat)
    if isinstance(chat, dict) and isinstance(chat.get("messages"), list):
        return _from_openai(str(chat.get("title") or ""), chat["messages"])
    if isinstance(chat, dict) and isinstance(chat.get("conversations"), list):
        said = [ShareGPTMessage.model_validate(one) for one in chat["conversations"]]
        return _in_a_row(str(chat.get("title") or ""), [(one.sender, one.value) for one in said])
    raise CannotImport(f"This file cannot be read. Known is {READABLE}.")


def _from_openai(title: str, messages: list[Any]) -> Imported:
    said = [OpenAIMessage.model_validate(one) for one in messages]
    return _in_a_row(title, [(one.role, one.text) for one in said])


def _in_a_row(title: str, said: list[tuple[str, str]]) -> Imported:
    """Return a chat without branches; what a tool said or another role is left out."""
    if len(said) > MOST_MESSAGES:
        raise CannotImport(f"A chat of this file has more than {MOST_MESSAGES:,} messages.")
    system = "\n\n".join(clean_text(text) for role, text in said if role in ("system", "developer"))
    texts = [(ROLES[role], clean_text(text)) for role, text in said if role in ROLES and text.strip()]
    records = [
        Record(number, number - 1 if number > 1 else None, role, text, about=_about(role, {}))
        for number, (role, text) in enumerate(texts, 1)
    ]
    return _imported(title, system, records, len(records) or None)


def _own(saved: SavedChat) -> Imported:
    known: set[int] = set()
    records = []
    for message in sorted(saved.messages, key=lambda one: one.id):
        parent = message.parent if message.parent in known else None
        record = Record(message.id, parent, message.role, clean_text(message.text), clean_text(message.reasoning))
        record.about, record.created = _about(message.role, message.about), message.created
        if message.images:
            record.images = tuple(clean_picture(base64.b64decode(one)) for one in message.images)
            record.about["thumbnails"] = [thumbnail(image) for image in record.images]
        records.append(record)
        known.add(message.id)
    leaf = saved.leaf if saved.leaf in known else max(known, default=None)
    return _imported(saved.title, clean_text(saved.system_prompt), records, leaf)


def _about(role: str, about: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says of an answer, as far as the page shows it; a file may claim anything."""
    settings = about.get("settings")
    usage = about.get("usage")
    kept: dict[str, Any] = {"settings": settings if isinstance(settings, dict) else {}}
    kept["model"] = str(about.get("model") or "")[:200]
    numbers = ("seconds", "time_to_first_token", "tokens_per_second")
    kept |= {name: about[name] for name in numbers if _is_amount(about.get(name))}
    if isinstance(usage, dict) and all(_is_amount(count) and isinstance(count, int) for count in usage.values()):
        names = ("prompt_tokens", "completion_tokens", "cached_tokens")
        kept["usage"] = {name: usage.get(name, 0) for name in names}
    ending = about.get("finish_reason")
    kept["finish_reason"] = ending if ending in ("stop", "length", "cancelled", "error", "interrupted") else "stop"
    return kept if role == "assistant" else {}


def _is_amount(value: Any) -> bool:
    """Tell whether a value is a number that can be measured."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 10**9


def _imported(title: str, system_prompt: str, records: list[Record], leaf: int | None) -> Imported:
    first = next((record.text for record in records if record.role == "user"), "")
    chat = ChatRecord(new_id(), clean_text(title)[:200] or title_of(first), system_prompt, leaf=leaf)
    return Imported(chat, records)
