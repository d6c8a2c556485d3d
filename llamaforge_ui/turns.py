"""Turns as the chatbot shows them: what was said, and under it the figures, versions and buttons."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import gradio as gr

from llamaforge import Result

from .conversation import Conversation
from .convert import figures, sentence_for
from .plain_text import harmless
from .turn import Turn
from .visits import SHOWN_TURNS


@dataclass(frozen=True, slots=True)
class Shown:
    """One message as the chatbot shows it, and the turn that it belongs to; only `editable` ones are said text."""

    message: dict[str, Any]
    turn: int
    editable: bool = True


def shown_messages(
    conversation: Conversation, role: str = "guest", *, without_running: bool = False, most: int = SHOWN_TURNS
) -> list[Shown]:
    """Return the last turns as chatbot messages; a turn may be several: pictures, thoughts, text, figures."""
    turns = list(enumerate(conversation.turns))
    edge = _edge(conversation)
    if without_running and conversation.running is not None:
        turns = turns[:-1]
    shown: list[Shown] = []
    for index, turn in turns[-most:]:
        if index == edge:
            shown.append(Shown(_own("assistant", _edge_line()), index, editable=False))
        shown += _shown(conversation, index, turn, role)
    return shown


def chatbot_value(
    conversation: Conversation, role: str = "guest", *, without_running: bool = False, most: int = SHOWN_TURNS
) -> list[dict[str, Any]]:
    shown = shown_messages(conversation, role, without_running=without_running, most=most)
    return [one.message for one in shown]


def _shown(conversation: Conversation, index: int, turn: Turn, role: str) -> list[Shown]:
    parts = []
    if pictures := turn.about.get("thumbnails"):
        parts.append(Shown(_own(turn.role, _pictures(pictures)), index, editable=False))
    if turn.reasoning:
        # Folded, but open where the thoughts are all there is, so that an answer is never hidden entirely.
        state = "done" if turn.text else "pending"
        parts.append(Shown(_message("assistant", turn.reasoning, title="Thoughts", status=state), index, False))
    if turn.text:
        parts.append(Shown(_message(turn.role, turn.text), index))
    if tail := _tail(conversation, turn, role):
        parts.append(Shown(_own(turn.role, tail), index, editable=False))
    return parts


def _message(role: str, text: str, **metadata: str) -> dict[str, Any]:
    # As a list with one text: a bare str would lose its leading indentation in Gradio.
    message: dict[str, Any] = {"role": role, "content": [{"type": "text", "text": harmless(text)}]}
    return message | ({"metadata": metadata} if metadata else {})


def _own(role: str, markup: str) -> dict[str, Any]:
    """Return a message that is markup of the page's own, every text of others escaped."""
    return {"role": role, "content": gr.HTML(markup, padding=False)}


def _pictures(thumbnails: list[str]) -> str:
    images = "".join(f'<img src="{html.escape(url)}" alt="Picture {n}">' for n, url in enumerate(thumbnails, 1))
    return f'<div class="lf-pictures">{images}</div>'


def _tail(conversation: Conversation, turn: Turn, role: str) -> str:
    """Return what stands under a turn: versions, and for an answer its figures and what can be done with it."""
    versions = _versions(conversation, turn)
    if turn.role == "user":
        return f'<div class="lf-tail lf-right">{versions}</div>' if versions else ""
    if turn.result is None and not versions:
        return ""
    about = _notes(turn.result, role) + _figures(turn, role) if turn.result is not None else ""
    go_on = _button("continue", "Continue", turn) if turn is conversation.turns[-1] and turn.unfinished else ""
    return f'<div class="lf-tail">{about}{versions}{go_on}</div>'


def _notes(result: Result, role: str) -> str:
    """Return what plugins have to say; what went wrong in them is the owner's business."""
    notes = [note for note in result.notes if role == "owner" or not note.failed]
    texts = [note.text if note.failed else f"{note.plugin}: {note.text}" for note in notes]
    return "".join(f'<p class="lf-note">{html.escape(text)}</p>' for text in texts)


def _figures(turn: Turn, role: str) -> str:
    result = turn.result
    assert result is not None
    lost = " as the connection to this page was lost" if turn.about.get("lost") else ""
    summary = "edited" if turn.about.get("edited") else f"{figures(result)}{lost}"
    acts = _button("branch", "Branch from here", turn)
    if role == "owner":  # guests are told neither the owner's words to the model nor its settings
        acts += _button("prompt", "Show the prompt", turn)
        acts += _button("settings", "Use these settings", turn) if turn.about.get("settings") else ""
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in _details(turn, role))
    return f"<details><summary>{html.escape(summary)}</summary><div>{lines}<p>{acts}</p></div></details>"


def _details(turn: Turn, role: str) -> list[str]:
    result = turn.result
    lines = [f"Model: {turn.model}"] if turn.model else []
    if result is not None and result.usage is not None:
        known = result.usage.cached_tokens if role == "owner" else 0  # a guest could guess at chats of others by it
        cached = f", {known:,} of them from the cache" if known else ""
        lines.append(f"Prompt: {result.usage.prompt_tokens:,} tokens{cached}")
    settings = turn.about.get("settings") or {}
    if role == "owner" and settings:
        lines.append("Settings: " + " · ".join(f"{name} {value}" for name, value in settings.items()))
    if result is not None and result.error is not None:
        lines.append(sentence_for(role, result.error))
    return lines


def _versions(conversation: Conversation, turn: Turn) -> str:
    number, count = conversation.versions(turn)
    if count < 2:
        return ""
    before = _button("switch", "‹", turn, step=-1, label="Previous version", off=number == 1)
    after = _button("switch", "›", turn, step=1, label="Next version", off=number == count)
    return f'<span class="lf-versions">{before}<span>{number} of {count}</span>{after}</span>'


def _button(act: str, text: str, turn: Turn, *, step: int = 0, label: str = "", off: bool = False) -> str:
    """Return a button whose press page.js hands to the page's one event for such."""
    more = f' data-step="{step}"' if step else ""
    named = f' aria-label="{label}" title="{label}"' if label else ""
    state = " disabled" if off else ""
    return f'<button type="button" data-act="{act}" data-turn="{turn.id}"{more}{named}{state}>{text}</button>'


def _edge(conversation: Conversation) -> int | None:
    """Return the index of the first turn that the model was given, where the last answer was not given all."""
    last = next((turn for turn in reversed(conversation.turns) if turn.role == "assistant" and turn.result), None)
    return conversation.first_given(last.result.dropped) if last is not None and last.result is not None else None


def _edge_line() -> str:
    text = "The context begins here: the model no longer sees what is above."
    return f'<div class="lf-edge" role="separator">{text}</div>'
