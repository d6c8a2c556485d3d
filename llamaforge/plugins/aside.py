"""Calls of other people's code, each in a thread of its own: one that never ends holds nobody up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

IMPORT_SECONDS = 10.0
Value = TypeVar("Value")


def begun(call: Callable[[], Value]) -> Future[Value]:
    """Start a call in a daemon thread, which no end of the program waits for."""
    future: Future[Value] = Future()
    threading.Thread(target=_settle, args=[future, call], name="llamaforge-plugin", daemon=True).start()
    return future


def ended(future: Future[Value], seconds: float) -> bool:
    """Wait up to `seconds`; tell whether the call has ended, in whatever way."""
    wait([future], seconds)
    return future.done()


def _settle(future: Future[Value], call: Callable[[], Value]) -> None:
    try:
        future.set_result(call())
    # Whoever asks for the result gets it, sys.exit() included.
    except BaseException as failure:  # noqa: BLE001
        future.set_exception(failure)
