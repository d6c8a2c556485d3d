"""One engine behind every page: its tokens as fast as they come or paced, with the times of the first and the last."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

Piece = TypeVar("Piece")


@dataclass(frozen=True, slots=True)
class Pace:
    """How the next answer is to be: so many tokens, so many a second; 0 is as fast as the engine."""

    tokens: int
    speed: float = 0.0

    def write(self, folder: Path) -> None:
        (folder / "pace.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Pace:
        return cls(**json.loads((folder / "pace.json").read_text()))


@dataclass(frozen=True, slots=True)
class Times:
    """When the engine gave an answer's first and last token, in seconds since 1970."""

    first: float
    last: float
    tokens: int

    @property
    def speed(self) -> float:
        return (self.tokens - 1) / max(self.last - self.first, 1e-9)

    @classmethod
    def take(cls, folder: Path, side: str) -> Times:
        """Return what a side has noted, and forget it; the page may be done a moment earlier."""
        file = folder / f"{side}.json"
        end = time.monotonic() + 10
        while not file.exists() and time.monotonic() < end:
            time.sleep(0.01)
        times = cls(**json.loads(file.read_text()))
        file.unlink()
        return times


def paced(stream: Iterable[Piece], says: Callable[[Piece], bool], folder: Path, side: str) -> Iterator[Piece]:
    """Yield a stream at the pace that the folder's file asks for, and note there when its words came.

    Args:
        says: whether a piece has words.
    """
    pace, times = Pace.read(folder), list[float]()
    for piece in stream:
        if says(piece):
            if pace.speed and times:
                time.sleep(max(0.0, times[0] + len(times) / pace.speed - time.time()))
            times.append(time.time())
        yield piece
    if times:
        whole = Times(times[0], times[-1], len(times))
        part = folder / f"{side}.part"
        part.write_text(json.dumps(asdict(whole)))
        part.rename(folder / f"{side}.json")
