"""The plain values that travel between the rooms. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

Role: TypeAlias = Literal["system", "user", "assistant"]
FinishReason: TypeAlias = Literal["stop", "length", "cancelled", "error"]
Overflow: TypeAlias = Literal["refuse", "drop"]  # what happens to a chat that does not fit into the context window


@dataclass(frozen=True, slots=True)
class Image:
    """A picture in a message: the bytes of a PNG, JPEG or WebP file, and which of them it is ("image/png")."""

    data: bytes
    media_type: str = "image/jpeg"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat; pictures stand before its text."""

    role: Role
    content: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat as the model reads it: `text` with its special tokens spelled out, and how many tokens it is."""

    text: str
    tokens: int | None = None  # where nobody can tell


@dataclass(frozen=True, slots=True)
class Strengths:
    """What a backend is good at and what not, a short phrase each, for who chooses one; empty what it does not say."""

    performance: str = ""
    flexibility: str = ""
    quality: str = ""
    cost: str = ""
    privacy: str = ""


class Token(NamedTuple):
    """A token: its number, and how the model's vocabulary spells it ("Ġworld")."""

    id: int
    text: str


@dataclass(frozen=True, slots=True)
class LastTokens:
    """The tokens in which a model read its last prompt and wrote the answer to it, without the one that ended it."""

    prompt: tuple[Token, ...]
    answer: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer; `cached_tokens` of the prompt were already in the KV cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PluginNote:
    """What a plugin has to say about an answer; where it `failed`, that is for the owner's eyes only."""

    plugin: str
    text: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a backend's stream; any field may be empty.

    `progress` is the share of the prompt that has been evaluated, 0 to 1. `note` says what is waited for while there
    is no text ("The service is busy; trying again in 7 s."); the next chunk with text takes it back. `dropped` is how
    many messages at the beginning the model is not given. `notes` of plugins stay with the answer.
    """

    text: str = ""
    reasoning: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    progress: float | None = None
    note: str = ""
    dropped: int = 0
    notes: tuple[PluginNote, ...] = ()


@dataclass(frozen=True, slots=True)
class News:
    """What an answer has grown by, text and thoughts; `place` is where the next news begin."""

    text: str
    reasoning: str
    place: tuple[int, int]


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load has come: `share` is 0 to 1, None where nobody can tell; `doing` says what, for people."""

    share: float | None = None
    doing: str = "loading"


@dataclass(frozen=True, slots=True)
class Result:
    """What is known of an answer once it has ended; times are in seconds, None where nothing was measured."""

    text: str
    reasoning: str
    finish_reason: FinishReason
    usage: Usage | None
    seconds: float
    time_to_first_token: float | None
    tokens_per_second: float | None
    error: Exception | None = None
    dropped: int = 0  # messages at the beginning that the model was not given, as they did not fit
    notes: tuple[PluginNote, ...] = ()  # what plugins have to say about it


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that a loaded model takes, computed before anything is allocated."""

    weights: int
    kv_cache: int = 0
    compute: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model says about itself before it is loaded.

    `facts` are labelled texts for people, `limits` upper bounds of parameters ("n_gpu_layers": 32),
    `defaults` the values that unset parameters will take, and `origins` says of some of these where they come from
    ("generation_config.json"); of the others it is the model itself.
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
