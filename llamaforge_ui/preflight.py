"""Before a page is shared: what would be wrong about it, and what the person at the terminal is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal, NamedTuple

from llamaforge import GuestLimits, LlamaForge, get_backend, literal_keys

from .gate import OWNER_PAGE
from .guests import may_use

SHARE_LINK = "Share links pass through Gradio's servers, which can read what is written, for up to a week."
PLAIN_HTTP = "Nothing is encrypted on the way: others in this network can read it, also the passphrase."


class Finding(NamedTuple):
    """Something to know before sharing; a red one keeps the page from starting, unless it is forced."""

    level: Literal["red", "yellow"]
    text: str


def findings(forge: LlamaForge, first: str | None, *, remote_code: bool) -> list[Finding]:
    """Return what is wrong with sharing this config folder, the red ones first.

    Args:
        first: the model that is loaded at the start.
        remote_code: whether the start flag allows models to run their own code.
    """
    found = [*_settings(forge), *_models(forge, first)]
    if remote_code:
        found.append(Finding("red", "--allow-remote-code is for this computer alone: a shared page never allows it."))
    if plugins := [entry.name for entry in forge.config.settings.plugins]:
        found.append(Finding("yellow", f"Plugins run with all your rights: {', '.join(plugins)}."))
    if hasattr(os, "geteuid") and os.geteuid() == 0 and "SPACE_ID" not in os.environ:
        found.append(Finding("yellow", "This runs as root: whoever finds a hole in it has this whole computer."))
    return sorted(found, key=lambda finding: finding.level)


def _settings(forge: LlamaForge) -> Iterator[Finding]:
    settings = forge.config.settings
    if settings.problem is not None:
        yield Finding("red", f"The limits for guests cannot be read, so guests stay out. {settings.problem}")
    elif not settings.guests.open:
        yield Finding("yellow", "settings.yaml closes this page to guests (guests: open: false).")


def _models(forge: LlamaForge, first: str | None) -> Iterator[Finding]:
    for model in forge.models():
        if model.problem is not None:
            continue
        if literal_keys(get_backend(model.backend).Parameters, model.parameters):
            yield Finding(
                "red",
                f"models/{model.name}.yaml has a key in plain text. Put it into an environment variable and write "
                "api_key: ${OPENAI_API_KEY}",
            )
        elif may_use(model) and get_backend(model.backend).is_service:
            yield Finding("yellow", f"Guests may use {model.name}: what they ask is billed to its key.")
        elif model.name == first and not may_use(model):
            yield Finding("yellow", f"Guests may not use {model.name}. To let them: guests: true in its file.")


class Address(NamedTuple):
    """Where the page is: for this computer, and for others where there are any."""

    here: str
    others: str | None
    share: bool


def announcement(address: Address, limits: GuestLimits, passphrase: str | None, *, public: bool) -> str:
    """Return what the terminal says when the page is up; the passphrase is part of it, so it goes nowhere else.

    Args:
        passphrase: what the owner logs in with, or where to find it; None where nobody can log in.
    """
    lines = [f"LlamaForge is at {address.here}"]
    if public:
        lines.append(f"Guests (chat only):  {address.others or address.here}")
    if passphrase is not None:
        lines.append(f"You (owner):         {address.here.rstrip('/')}{OWNER_PAGE}   passphrase: {passphrase}")
    elif public:
        lines.append("Nobody can log in as the owner: for that, set LLAMAFORGE_OWNER_PASSWORD and start again.")
    if public:
        lines += [
            "Guests may chat with the loaded model, stop and clear their own chat, and download it; nothing else:",
            f"  {limits.message_characters:,} characters a message, {limits.max_tokens:,} tokens and "
            f"{limits.answer_seconds} s an answer, {limits.messages_per_10_minutes} messages in 10 minutes, "
            f"{limits.all_messages_per_10_minutes} from all of them.",
        ]
        if address.share:
            lines.append(SHARE_LINK)
        elif not (address.others or "").startswith("https://"):
            lines.append(PLAIN_HTTP)
    return "\n".join(lines)
