"""What an empty chat shows: who answers, questions to begin with, and the way to a model of one's own."""

from __future__ import annotations

import html

from llamaforge import Model, get_backend

from .conversation import Conversation
from .page import Page

STEPS = """<h3>Chat with a model on your own computer</h3>
<ol><li>In <b>Models</b>, register a model, if there is none yet: a GGUF file, by its path.</li>
<li>Choose it at the top and press <b>Load</b>.</li>
<li>Write a message below. What you write to a model on this computer does not leave it.</li></ol>"""
FOR_GUESTS = "<h3>Say something</h3><p>Write a message below. The model that answers is named at the top.</p>"
WAYS = {"llama.cpp": "A GGUF file", "huggingface": "A Hugging Face model", "openai": "A service or server"}


def welcome(page: Page, conversation: Conversation) -> str:
    """Return what stands in an empty chat as HTML, and nothing for any other."""
    if conversation.turns or conversation.running is not None:
        return ""
    status = page.forge.status
    model = page.forge.config.models.get(status.model or "")
    examples = _examples(model) if model is not None and status.state == "ready" else ""
    if not page.for_owner:
        return FOR_GUESTS + examples
    if model is None:
        return STEPS + _ways("Register one:")
    ways = _ways("For everything else, register a model of your own:") if model.examples else ""
    return _speaker(model) + examples + ways


def _speaker(model: Model) -> str:
    """Return who answers here, and where it is heard."""
    description = f"<p>{html.escape(model.description)}</p>" if model.description else ""
    service = model.problem is None and get_backend(model.backend).is_service
    place = "What you write goes to its service." if service else "What you write does not leave this computer."
    return f"<h3>Chat with {html.escape(model.name)}</h3>{description}<p>Write a message below. {place}</p>"


def _examples(model: Model) -> str:
    buttons = "".join(
        f'<button type="button" data-act="example">{html.escape(question)}</button>' for question in model.examples
    )
    return f'<div class="lf-examples" aria-label="Questions to begin with">{buttons}</div>' if buttons else ""


def _ways(text: str) -> str:
    buttons = "".join(
        f'<button type="button" data-act="register" data-backend="{backend}">{label}</button>'
        for backend, label in WAYS.items()
    )
    return f'<p class="lf-ways">{text} {buttons}</p>'
