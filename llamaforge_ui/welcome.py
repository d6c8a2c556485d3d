"""What an empty chat shows: who answers, questions to begin with, and the way to a model of one's own."""

from __future__ import annotations

import html

from llamaforge import Model, get_backend

from .conversation import Conversation
from .guests import may_use
from .page import Page

OFFERED = 12  # questions, at most
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
    ready = status.state == "ready" and status.model is not None
    model = page.forge.config.models.get(status.model or "")  # its file as it is now
    examples = _examples(model) if ready and model is not None and model.problem is None else ""
    if not page.for_owner:
        offered = page.guests.open and examples and model is not None and may_use(model)
        return FOR_GUESTS + (examples if offered else "")
    if status.state == "loading":  # at the first start too: no newcomer is told to register what is there
        return f"<h3>Chat with {html.escape(status.model or '')}</h3><p>It is being loaded.</p>"
    if not ready:
        return STEPS + _ways("Register one:")
    ways = _ways("For everything else, register a model of your own:") if examples else ""
    return _speaker(page, model) + examples + ways


def _speaker(page: Page, model: Model | None) -> str:
    """Return who answers here, and where it is heard: by what is loaded, for its file may have changed since."""
    status = page.forge.status
    said = f"<p>{html.escape(model.description)}</p>" if model is not None and model.description else ""
    place = "What you write does not leave this computer."
    if status.backend is None or get_backend(status.backend).is_service:
        place = "What you write goes to its service."
    elif page.access.public:
        place = "What you write stays on the computer that runs LlamaForge."
    return f"<h3>Chat with {html.escape(status.model or '')}</h3>{said}<p>Write a message below. {place}</p>"


def _examples(model: Model) -> str:
    buttons = "".join(
        f'<button type="button" data-act="example">{html.escape(question)}</button>'
        for question in model.examples[:OFFERED]
    )
    return (
        f'<div class="lf-examples" role="group" aria-label="Questions to begin with">{buttons}</div>'
        if buttons
        else ""
    )


def _ways(text: str) -> str:
    buttons = "".join(
        f'<button type="button" data-act="register" data-backend="{backend}">{label}</button>'
        for backend, label in WAYS.items()
    )
    return f'<div class="lf-ways" role="group" aria-label="{text}"><span>{text}</span>{buttons}</div>'
