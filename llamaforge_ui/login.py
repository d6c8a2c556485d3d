"""The owner's login: a passphrase, growing pauses after wrong ones, and sessions of which only digests are kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from xkcdpass import xkcd_password

from llamaforge import LlamaForgeError

SHORTEST_PASSPHRASE = 12
WORDS = 4  # of a list of 7,776: 51 bits, which at five tries and a pause are never guessed
SESSION_SECONDS = 12 * 3600
MOST_SESSIONS = 20
FREE_TRIES = 5
FIRST_PAUSE, LONGEST_PAUSE = 30, 15 * 60


class WeakPassphrase(LlamaForgeError):
    """The passphrase that was set can be guessed."""


class WrongPassphrase(LlamaForgeError):
    """It was not the passphrase, or there is a pause; `pause` is how many seconds it still lasts."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


def new_passphrase() -> str:
    """Return four words of the EFF's long list, by the system's random numbers."""
    words = xkcd_password.generate_wordlist(xkcd_password.locate_wordfile("eff-long"), min_length=3, max_length=9)
    return str(xkcd_password.generate_xkcdpassword(words, numwords=WORDS, delimiter="-"))


def checked_passphrase(text: str) -> str:
    """Return a passphrase that a person chose.

    Raises:
        WeakPassphrase: it is empty or short.
    """
    text = text.strip()
    if len(text) < SHORTEST_PASSPHRASE or len(set(text)) < SHORTEST_PASSPHRASE // 3:
        raise WeakPassphrase(
            f"LLAMAFORGE_OWNER_PASSWORD is too weak: it needs at least {SHORTEST_PASSPHRASE} characters, not all "
            "alike. Without it a passphrase is made up at each start."
        )
    return text


@dataclass(slots=True)
class Tries:
    """The wrong passphrases that came in a row, and when the next one may come."""

    wrong: int = 0
    next_at: float = 0.0


class OwnerLogin:
    """Knows whether a passphrase, and later a session's token, is the owner's.

    Args:
        passphrase: in plain text; only its digest is kept.
        clock: seconds that never go back.
    """

    def __init__(self, passphrase: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._digest = _digest(passphrase)
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: OrderedDict[bytes, float] = OrderedDict()  # digest of the token -> when it ends
        self._tries: dict[str, Tries] = {}

    def log_in(self, passphrase: str, whence: str = "") -> str:
        """Return the token of a new session.

        Args:
            whence: where the try comes from. Pauses hold for each place of its own, so that strangers on a public
                address cannot keep the owner out of this computer's.

        Raises:
            WrongPassphrase: it is not the owner's, or there is a pause.
        """
        with self._lock:
            tries, now = self._tries.setdefault(whence, Tries()), self._clock()
            if now < tries.next_at:
                raise _too_many(tries.next_at - now)
            if not hmac.compare_digest(_digest(passphrase), self._digest):
                tries.wrong += 1
                if tries.wrong >= FREE_TRIES:
                    pause = min(FIRST_PAUSE * 2 ** (tries.wrong - FREE_TRIES), LONGEST_PAUSE)
                    tries.next_at = now + pause
                    raise _too_many(pause)
                raise WrongPassphrase("That is not the passphrase.")
            del self._tries[whence]
            token = secrets.token_urlsafe(32)
            self._sessions[_digest(token)] = now + SESSION_SECONDS
            while len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
            return token

    def knows(self, token: str | None) -> bool:
        """Tell whether a token belongs to a session that has not ended."""
        if not token:
            return False
        with self._lock:
            return self._sessions.get(_digest(token), 0.0) > self._clock()

    def log_out(self, token: str | None) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(_digest(token or ""), None)


def _too_many(pause: float) -> WrongPassphrase:
    return WrongPassphrase(f"Too many wrong passphrases. Try again in {pause:.0f} seconds.", pause)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
