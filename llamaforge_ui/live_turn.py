"""The answer being written: drawn outside the chatbot, at most 15 times a second, however fast the engine is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from llamaforge import Generation, LlamaForge

INTERVAL = 1 / 14
FIRST_INTERVAL = 1 / 50  # until the first word is there, so that it is seen at once
LONGEST_INTERVAL = 0.4
STOP_PATIENCE = 1.0  # the page is free a second after Stop, whatever the engine does


@dataclass(frozen=True, slots=True)
class Frame:
    """The live turn at one moment: the text so far, or what is going on while there is none."""

    text: str
    reasoning: str
    status: str


async def frames(forge: LlamaForge, generation: Generation, longest: float | None = None) -> AsyncIterator[Frame]:
    """Yield the answer as it grows, until it has ended, or a second after it was stopped.

    Args:
        longest: how many seconds it may be written for; it is stopped then. What a limited visitor waits for is told
            without the engine's own words, which may name the owner's services.
    """
    begun = time.monotonic()
    running_since: float | None = None
    stopped: float | None = None
    last: Frame | None = None
    interval = FIRST_INTERVAL
    while generation.result is None:
        now = time.monotonic()
        running_since = running_since or (now if generation.running else None)
        if longest is not None and running_since is not None and now - running_since >= longest:
            generation.stop()
        note = generation.note if longest is None else ""
        frame = Frame(generation.text, generation.reasoning, _status(forge, generation, note, now - begun))
        if frame != last:
            drawing = time.monotonic()
            yield frame
            last = frame
            # A busy page is given time: a fifth of it goes into drawing, while a reader still sees it move.
            drawn = 5 * (time.monotonic() - drawing)
            interval = min(max(INTERVAL, drawn), LONGEST_INTERVAL) if generation.length else FIRST_INTERVAL
        stopped = stopped or (time.monotonic() if generation.stopping else None)
        if stopped is not None and time.monotonic() - stopped > STOP_PATIENCE:
            return
        await asyncio.sleep(interval)


def _status(forge: LlamaForge, generation: Generation, note: str, elapsed: float) -> str:
    if generation.stopping:
        return "Stopping …"
    waited = f" · {elapsed:.0f} s" if elapsed >= 1 else ""
    if not generation.running:
        before = forge.position(generation)
        return f"Waiting for {before} answer{'' if before == 1 else 's'} before this one{waited}"
    if note:
        return f"{note}{waited}"
    if generation.text:
        return ""
    if generation.reasoning:
        return f"Thinking{waited}"
    if generation.progress is not None and generation.progress < 1:
        return f"Reading the prompt · {generation.progress:.0%}{waited}"
    return f"Reading the prompt{waited}"
