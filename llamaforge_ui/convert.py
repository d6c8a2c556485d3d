"""Between plain values and what Gradio shows: turns as chatbot messages, figures as text, errors as sentences."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from llamaforge import (
    Busy,
    ContextOverflow,
    EmptyPrompt,
    GenerationError,
    GuestLimit,
    LlamaForgeError,
    LoadProgress,
    Result,
    Status,
    hide_secrets,
)

from .conversation import AnswerRunning, Conversation, Turn
from .plain_text import harmless

SHOWN_TURNS = 40
ENDINGS = {"stop": "finished", "cancelled": "stopped", "error": "ended by an error"}
FOR_GUESTS = (AnswerRunning, Busy, EmptyPrompt, GuestLimit)  # their texts name nothing of the owner's
NOT_AVAILABLE = "The model is not available right now. Please try again later."
TOO_LONG = "This chat is too long for the model. Start a new chat, or shorten the message."


@dataclass(frozen=True, slots=True)
class Shown:
    """One message as the chatbot shows it, and the turn that it belongs to; only `editable` ones are said text."""

    message: dict[str, Any]
    turn: int
    editable: bool = True


def shown_messages(conversation: Conversation, role: str = "guest", *, without_running: bool = False) -> list[Shown]:
    """Return the last turns as chatbot messages; a turn may be several: thoughts, text, figures."""
    turns = list(enumerate(conversation.turns))
    if without_running and conversation.running is not None:
        turns = turns[:-1]
    return [shown for index, turn in turns[-SHOWN_TURNS:] for shown in _shown(index, turn, role)]


def chatbot_value(
    conversation: Conversation, role: str = "guest", *, without_running: bool = False
) -> list[dict[str, Any]]:
    return [shown.message for shown in shown_messages(conversation, role, without_running=without_running)]


def as_markdown(conversation: Conversation) -> str:
    """Return what was said, as a text to keep."""
    said = [(turn.model or "Model" if turn.role == "assistant" else "You", turn.text) for turn in conversation.turns]
    return "\n\n".join(f"**{who}**\n\n{text}" for who, text in said if text) + "\n"


def _shown(index: int, turn: Turn, role: str) -> list[Shown]:
    if turn.role == "user":
        return [Shown(_message("user", turn.text), index)]
    parts = []
    if turn.reasoning:
        # Folded, but open where the thoughts are all there is, so that an answer is never hidden entirely.
        state = "done" if turn.text else "pending"
        parts.append(Shown(_message("assistant", turn.reasoning, title="Thoughts", status=state), index, False))
    if turn.text:
        parts.append(Shown(_message("assistant", turn.text), index))
    if turn.result is not None:
        parts.append(
            Shown(_message("assistant", _details(turn, role), title=figures(turn.result), status="done"), index, False)
        )
    return parts


def _message(role: str, text: str, **metadata: str) -> dict[str, Any]:
    # As a list with one text: a bare str would lose its leading indentation in Gradio.
    message: dict[str, Any] = {"role": role, "content": [{"type": "text", "text": harmless(text)}]}
    return message | ({"metadata": metadata} if metadata else {})


def _details(turn: Turn, role: str) -> str:
    result = turn.result
    lines = [f"Model: {turn.model}"] if turn.model else []
    if result is not None and result.usage is not None:
        cached = f", {result.usage.cached_tokens:,} of them from the cache" if result.usage.cached_tokens else ""
        lines.append(f"Prompt: {result.usage.prompt_tokens:,} tokens{cached}")
    if result is not None and result.error is not None:
        lines.append(sentence_for(role, result.error))
    return "\n\n".join(lines)


def figures(result: Result) -> str:
    """Return the line under an answer: "312 tokens · 0.4 s to first · 41 tokens/s · stopped at 512"."""
    parts = []
    if result.usage is not None:
        count = result.usage.completion_tokens
        parts.append(f"{count:,} token{'' if count == 1 else 's'}")
    if result.time_to_first_token is not None:
        parts.append(f"{seconds(result.time_to_first_token)} to first")
    if result.tokens_per_second is not None:
        parts.append(f"{result.tokens_per_second:,.0f} tokens/s")
    length = f"stopped at {result.usage.completion_tokens:,} tokens" if result.usage else "stopped at the limit"
    parts.append(length if result.finish_reason == "length" else ENDINGS[result.finish_reason])
    return " · ".join(parts)


def seconds(value: float) -> str:
    """Return a duration as a person reads it: "0.04 s", "3.2 s", "2 min 5 s"."""
    if value >= 59.95:
        minutes, rest = divmod(round(value), 60)
        return f"{minutes} min {rest} s"
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"


def notice(text: str, kind: str = "problem", details: str = "") -> str:
    """Return a sentence as HTML that stands where the cause is, with folded details; empty for no text.

    Details, and texts of others that a sentence quotes, may hold keys; the page gets none.
    """
    text, details = hide_secrets(text), hide_secrets(details)
    role = "alert" if kind == "problem" else "status"
    more = f"<details><summary>Details</summary><pre>{html.escape(details)}</pre></details>" if details else ""
    return f'<div class="lf-{kind}" role="{role}"><p>{html.escape(text)}</p>{more}</div>' if text else ""


def status_line(status: Status, elapsed: float, *, public: bool, progress: LoadProgress | None = None) -> str:
    """Return the state of the model as HTML: a dot, a word, and facts."""
    doing = progress.doing if progress is not None else "loading"
    done = f" · {progress.share:.0%}" if progress is not None and progress.share is not None else ""
    texts = {
        "empty": "nothing loaded",
        "loading": f"{doing} {status.model}{done} · {elapsed:.0f} s",
        "unloading": "unloading",
        "ready": "ready",
    }
    # By name: what is chosen beside it may be another. Narrow windows hide name and facts.
    name = f"{status.model} " if status.state == "ready" else ""
    facts = "" if public else "".join(f" · {fact}" for fact in status.summary)
    spans = f'<span class="lf-wide">{html.escape(name)}</span>{html.escape(texts[status.state])}'
    spans += f'<span class="lf-wide">{html.escape(facts)}</span>'
    took = f"loaded in {seconds(status.load_seconds)}" if status.load_seconds is not None else ""
    return f'<div class="lf-status" title="{took}"><span class="lf-dot lf-{status.state}"></span>{spans}</div>'


def sentence_for(role: str, error: Exception) -> str:
    """Return an error as a sentence for the page; what is no sentence of ours stays in the terminal.

    Guests are told what they can mend; models, hosts and settings are the owner's business.
    """
    if role != "owner" and isinstance(error, ContextOverflow):
        return TOO_LONG
    if role != "owner" and not isinstance(error, FOR_GUESTS):
        return NOT_AVAILABLE
    return str(error) if isinstance(error, LlamaForgeError) else str(GenerationError("Something went wrong."))
