"""Work that may stand still, in a thread of its own, so that whoever waits for it can leave."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")

OFTEN = 0.1  # seconds between two calls of `poll`


def in_background(work: Callable[[], T], poll: Callable[[], None]) -> T:
    """Return what `work` returns; call `poll` ten times a second meanwhile.

    Where `poll` raises, the work is left behind: it must notice by itself that nobody waits any more.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is waited for
            result.set_exception(error)

    threading.Thread(target=run, name="llamaforge-background", daemon=True).start()
    poll()
    while not wait([result], OFTEN).done:
        poll()
    return result.result()
