"""Between plain values and what the page shows: figures as text, errors as sentences."""

from __future__ import annotations

import html

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

from .conversation import AnswerRunning
from .visits import ChatGone, SessionEnded

ENDINGS = {"stop": "finished", "cancelled": "stopped", "error": "ended by an error", "interrupted": "interrupted"}
FOR_GUESTS = (
    AnswerRunning,
    Busy,
    EmptyPrompt,
    GuestLimit,
    SessionEnded,
    ChatGone,
)  # their texts name nothing of the owner's
NOT_AVAILABLE = "The model is not available right now. Please try again later."
TOO_LONG = "This chat is too long for the model. Start a new chat, or shorten the message."


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
