"""The answer being written: drawn outside the chatbot, at most 15 times a second, however fast the engine is."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from llamaforge import Generation, LlamaForge

from .plain_text import harmless

INTERVAL = 1 / 14
LONGEST_INTERVAL = 0.4
POLL = 0.008  # how soon the first word and the end are seen; a thread that waits for each visitor would cost more
IDLE_POLL = 0.05  # while other answers come first
CLOCK = 0.25  # how soon the seconds of waiting are counted on
STOP_PATIENCE = 1.0  # the page is free a second after Stop, whatever the engine does


@dataclass(frozen=True, slots=True)
class Frame:
    """The live turn at one moment: the text so far, or what is going on while there is none."""

    text: str
    reasoning: str
    status: str


async def frames(forge: LlamaForge, generation: Generation, *, notes: bool = True) -> AsyncIterator[Frame]:
    """Yield the answer as it grows, until it has ended, or a second after it was stopped.

    Args:
        notes: whether what is waited for is told in the engine's own words, which may name the owner's services.
    """
    begun = time.monotonic()
    stopped: float | None = None
    last: Frame | None = None
    interval = 0.0
    news = generation.since()
    text, reasoning = news.text, news.reasoning
    while generation.result is None:
        now = time.monotonic()
        note = generation.note if notes else ""
        frame = Frame(text, reasoning, _status(forge, generation, (text, reasoning), note, now - begun))
        if frame != last:
            yield frame
            last = frame
            # A busy page is given time: a fifth of it goes into drawing, while a reader still sees it move.
            interval = min(max(INTERVAL, 5 * (time.monotonic() - now)), LONGEST_INTERVAL) if text or reasoning else 0.0
        stopped = stopped or (time.monotonic() if generation.stopping else None)
        if stopped is not None and time.monotonic() - stopped > STOP_PATIENCE:
            return
        await _news(generation, news.place, interval)
        news = generation.since(news.place)
        text, reasoning = text + news.text, reasoning + news.reasoning


async def _news(generation: Generation, place: tuple[int, int], interval: float) -> None:
    """Wait until there is something to draw: the end at once, words after `interval`, and what else is told."""
    begun, was_stopping, progress = time.monotonic(), generation.stopping, generation.progress
    length = sum(place)
    while True:
        await asyncio.sleep(POLL if generation.running else IDLE_POLL)
        waited = time.monotonic() - begun
        if generation.result is not None or generation.stopping != was_stopping or waited >= max(CLOCK, interval):
            return
        if waited >= interval and (generation.length != length or generation.progress != progress):
            return


def live_text(frame: Frame, earlier: str = "") -> str:
    """Return what is drawn of an answer as Markdown: its text, and its thoughts as long as they are all there is.

    Args:
        earlier: the text of an answer that is continued.
    """
    if frame.text or earlier or not frame.reasoning:
        return harmless(earlier + frame.text)
    return "\n".join(f"> {line}" for line in harmless(frame.reasoning).splitlines())


def live_status(frame: Frame) -> str:
    """Return the line under it as HTML."""
    return f'<span class="lf-pulse"></span>{html.escape(frame.status)}' if frame.status else ""


def _status(forge: LlamaForge, generation: Generation, said: tuple[str, str], note: str, elapsed: float) -> str:
    text, reasoning = said
    if generation.stopping:
        return "Stopping …"
    waited = f" · {elapsed:.0f} s" if elapsed >= 1 else ""
    if not generation.running:
        before = forge.position(generation)
        return f"Waiting for {before} answer{'' if before == 1 else 's'} before this one{waited}"
    if note:
        return f"{note}{waited}"
    if text:
        return ""
    if reasoning:
        return f"Thinking{waited}"
    if generation.progress is not None and generation.progress < 1:
        return f"Reading the prompt · {generation.progress:.0%}{waited}"
    return f"Reading the prompt{waited}"
