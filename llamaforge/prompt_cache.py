"""What an engine keeps of chats that it has left, so that one that comes again is not evaluated again.

Knows no engine: a state is what an engine goes on from after the tokens that it stands for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from .memory import HEADROOM, Memory
from .types import MemoryNeed, Message

State = TypeVar("State")

MOST_BYTES = 2 * 2**30  # two full windows of 8,192 tokens for a model of 8 billion parameters
MOST_STATES = 64  # each is compared with each prompt
WORTH = 64  # a token is copied at least so many times faster than it is evaluated (500 to 2,000 times on a CPU)


class Engine(Protocol[State]):
    """What the cache asks of an engine about what it holds."""

    def size(self) -> int:
        """Return the bytes of its state."""

    def copied(self) -> State:
        """Return its state, which stays as it is whatever the engine does."""

    def may_be_cut(self, state: State) -> bool:
        """Tell whether the last tokens can be taken out of a state: recurrent models cannot go back."""


@dataclass(frozen=True, slots=True)
class Kept(Generic[State]):
    """A state, its bytes, and the tokens that it stands for."""

    tokens: list[int]
    size: int
    state: State


class PromptCache(Generic[State]):
    """Keeps states of chats up to a number of bytes; the least recently used go first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: list[Kept[State]] = []  # the least recently used first
        self._chat: list[Message] = []

    @property
    def size(self) -> int:
        """The bytes of all states."""
        return sum(one.size for one in self._kept)

    def turn_to(
        self, chat: Sequence[Message], prompt: Sequence[int], held: list[int], engine: Engine[State]
    ) -> tuple[int, State | None]:
        """Choose what an engine goes on from for a prompt, and keep the state of a chat that it leaves.

        Args:
            chat: the messages of the prompt; what continues or repeats the last chat leaves nothing.
            prompt: the tokens that are wanted.
            held: the tokens that the engine holds.

        Returns:
            how many tokens the prompt begins with, and the state that holds them; None where the engine does.
        """
        common = common_prefix(held, prompt)
        left = list(chat[: len(self._chat)]) != self._chat
        self._chat = list(chat)
        found = self._find(prompt, common, engine)
        if found is not None:  # before the other is kept, which may need its room
            self._kept.remove(found)
        if (left or found) and common < len(held):
            self._keep(held, engine)
        if found is None:
            return common, None
        common = common_prefix(found.tokens, prompt)
        if common < len(found.tokens) and self.size + found.size <= self._capacity:
            self._kept.append(found)  # it holds more than this prompt takes
        return common, found.state

    def _find(self, prompt: Sequence[int], common: int, engine: Engine[State]) -> Kept[State] | None:
        """Return the state with the most of a prompt's tokens; None where to copy it gains little."""
        best, most = None, common
        for one in self._kept:
            shared = common_prefix(one.tokens, prompt)
            gains = shared > most and (shared - common) * WORTH >= len(one.tokens)
            if gains and (shared == len(one.tokens) or engine.may_be_cut(one.state)):
                best, most = one, shared
        return best

    def _keep(self, tokens: list[int], engine: Engine[State]) -> None:
        if not self._capacity or (size := engine.size()) > self._capacity:
            return
        self._kept = [one for one in self._kept if tokens[: len(one.tokens)] != one.tokens]  # it holds theirs too
        while self._kept and (self.size + size > self._capacity or len(self._kept) >= MOST_STATES):
            del self._kept[0]
        with contextlib.suppress(MemoryError):
            self._kept.append(Kept(tokens, size, engine.copied()))


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two prompts begin with alike."""
    most = min(len(one), len(other))
    return next((place for place in range(most) if one[place] != other[place]), most)


def capacity_of(megabytes: int | None, need: MemoryNeed | None, memory: Memory) -> int:
    """Return the bytes for the states of other chats: those asked for, else what can be spared beside a model.

    A quarter of the RAM that the model will leave free, at most MOST_BYTES: the rest is for what an estimate of its
    memory misses, for the page and for other programs, as nothing counts these bytes before a load.

    Args:
        need: what the model takes; not loaded yet.
    """
    if megabytes is not None:
        return megabytes * 1_000_000
    needed = need.total if need is not None else 0
    spare = min(memory.ram_free, memory.ram_free + memory.vram_free - needed) - HEADROOM
    return max(0, min(MOST_BYTES, spare // 4))
