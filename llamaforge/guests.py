"""What guests of a shared page may do: the `guests:` block of settings.yaml, one schema like every other."""

from __future__ import annotations

from pydantic import Field

from .backends.parameters import Parameters


class GuestLimits(Parameters):
    """Limits of everybody who is not the owner; what is left out of settings.yaml has its default.

    Text lengths are in characters, times in seconds. A window of ten minutes slides; it does not begin on the hour.
    """

    open: bool = Field(
        default=True, description="Whether guests may chat at all; the page has a switch that ends at a restart."
    )
    message_characters: int = Field(default=8_000, description="Longest message in characters.", ge=1, le=1_000_000)
    history_messages: int = Field(
        default=40, description="Most messages in one chat, answers included.", ge=2, le=1_000
    )
    max_tokens: int = Field(default=512, description="Longest answer in tokens.", ge=1, le=1_048_576)
    answer_seconds: int = Field(
        default=120, description="Longest time that an answer is written for, in seconds.", ge=1, le=86_400
    )
    messages_per_10_minutes: int = Field(
        default=20, description="Messages of one guest in ten minutes.", ge=1, le=100_000
    )
    all_messages_per_10_minutes: int = Field(
        default=120, description="Messages of all guests together in ten minutes.", ge=1, le=1_000_000
    )
    waiting: int = Field(
        default=16, description="Answers to guests that may wait in line; the owner never waits for them.", ge=1, le=64
    )
    chats: int = Field(
        default=200,
        description="Chats that are kept; beyond them the one idle for longest is dropped.",
        ge=1,
        le=10_000,
    )
    system_prompt: str | None = Field(
        default=None,
        description="What the model is told before every guest's chat. Guests can make it say this.",
        max_length=32_000,
    )
