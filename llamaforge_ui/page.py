"""What every part of the page is given: the engine, who may do what, and the visitors' conversations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from llamaforge import LlamaForge, describe, get_backend

from .access import Access, Role
from .conversation import Conversation
from .convert import sentence_for
from .guests import Guests
from .visits import Conversations


@dataclass(slots=True)
class Page:
    """State of one page, the owner's or the guests'; nothing of it is global.

    `role` is whom it is built for, and decides what it shows; what a visitor may do is asked of `access` on each call.
    """

    forge: LlamaForge
    access: Access
    guests: Guests
    role: Role
    conversations: Conversations = field(default_factory=Conversations)

    def conversation(self, request: gr.Request) -> Conversation:
        return self.conversations.of(request.session_hash or "")

    @property
    def for_owner(self) -> bool:
        """Whether this page is the owner's."""
        return self.role == "owner"

    @property
    def longest(self) -> int | None:
        """How many seconds an answer may be written for; None for any time."""
        return None if self.for_owner else self.guests.limits.answer_seconds

    def sentence(self, error: Exception) -> str:
        """Return an error as a sentence for whom this page is built for."""
        return sentence_for(self.role, error)

    def overrides(self, request: gr.Request, model: str, scope: str) -> dict[str, Any]:
        """Return what this visitor set in the Parameters tab for a model, of one scope: "load" or "generate"."""
        chosen = self.conversation(request).parameters.get(model, {})
        if not chosen or model not in self.forge.config.models:
            return {}
        infos = describe(get_backend(self.forge.model(model).backend).Parameters)
        wanted = [info.name for info in infos.values() if info.scope == scope and not info.file_only]
        return {name: chosen[name] for name in wanted if name in chosen}

    def set_parameters(
        self, request: gr.Request, model: str, values: Mapping[str, Any], origin: str | None = None
    ) -> None:
        """Let values hold for this visitor's chat; None empties one.

        Args:
            origin: where they come from, where it is no person who typed them ("preset calm").
        """
        conversation = self.conversation(request)
        chosen = conversation.parameters.setdefault(model, {})
        origins = conversation.origins.setdefault(model, {})
        said = conversation.file_said.setdefault(model, {})
        for name, value in values.items():
            chosen[name] = value
            said.setdefault(name, self.forge.model(model).parameters.get(name))
            origins.pop(name, None)
        if origin is not None:
            origins.update(dict.fromkeys(values, origin))

    def forget_parameters(self, request: gr.Request, model: str) -> None:
        """Let a model's file say again what holds for this visitor's chat."""
        conversation = self.conversation(request)
        for kept in (conversation.parameters, conversation.origins, conversation.file_said):
            kept.pop(model, None)


def unlisted(**more: Any) -> dict[str, Any]:
    """How the page's own events are declared: not part of the published API, and no overlay over what they change."""
    return {"api_visibility": "private", "show_progress": "hidden", **more}


def at_once() -> dict[str, Any]:
    """How quick events are declared: past the queue, so that a full one never holds up Stop, Load or a setting."""
    return unlisted(queue=False)


def shown(there: bool) -> list[str]:
    """Return the classes of a part that is there or not.

    Gradio's own `visible` draws all of the page anew, with what the boxes held a moment before: what is typed
    meanwhile would be lost.
    """
    return [] if there else ["lf-off"]
