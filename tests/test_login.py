"""The owner's login: passphrases, pauses after wrong ones, and sessions that end."""

from __future__ import annotations

import pytest

from llamaforge_ui import OwnerLogin, WeakPassphrase, checked_passphrase, new_passphrase
from llamaforge_ui.login import FREE_TRIES, LONGEST_PAUSE, MOST_SESSIONS, SESSION_SECONDS, WrongPassphrase

RIGHT = "kite-marble-seven-orbit"


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def login(clock: Clock) -> OwnerLogin:
    return OwnerLogin(RIGHT, clock)


def refusal(login: OwnerLogin, passphrase: str, whence: str = "") -> WrongPassphrase:
    with pytest.raises(WrongPassphrase) as raised:
        login.log_in(passphrase, whence)
    return raised.value


def test_the_passphrase_opens_a_session_and_nothing_else_does(login: OwnerLogin) -> None:
    token = login.log_in(RIGHT)
    assert login.knows(token)
    for other in (None, "", token[:-1], token + "x", token.swapcase(), RIGHT):
        assert not login.knows(other)


@pytest.mark.parametrize("wrong", ["", "kite", RIGHT.upper(), RIGHT + " ", "ключ", "\x00", "x" * 100_000])
def test_a_wrong_passphrase_is_refused(login: OwnerLogin, wrong: str) -> None:
    assert str(refusal(login, wrong)) == "That is not the passphrase."


def test_every_session_has_a_token_of_its_own(login: OwnerLogin) -> None:
    tokens = {login.log_in(RIGHT) for _ in range(MOST_SESSIONS)}
    assert len(tokens) == MOST_SESSIONS and all(map(login.knows, tokens))


def test_the_oldest_session_makes_room(login: OwnerLogin) -> None:
    first, *others = [login.log_in(RIGHT) for _ in range(MOST_SESSIONS + 1)]
    assert not login.knows(first) and all(map(login.knows, others))


def test_a_session_ends_after_twelve_hours(login: OwnerLogin, clock: Clock) -> None:
    token = login.log_in(RIGHT)
    clock.now += SESSION_SECONDS - 1
    assert login.knows(token)
    clock.now += 1
    assert not login.knows(token)


def test_a_session_ends_at_the_logout_and_others_go_on(login: OwnerLogin) -> None:
    mine, other = login.log_in(RIGHT), login.log_in(RIGHT)
    login.log_out(mine)
    login.log_out("never known")
    assert not login.knows(mine) and login.knows(other)


def test_no_token_is_known_after_a_restart(login: OwnerLogin, clock: Clock) -> None:
    assert not OwnerLogin(RIGHT, clock).knows(login.log_in(RIGHT))


def test_neither_passphrase_nor_token_can_be_read_from_it(login: OwnerLogin) -> None:
    token = login.log_in(RIGHT)
    held = repr({name: getattr(login, name) for name in vars(login)})
    assert RIGHT not in held and token not in held


def test_the_pause_after_wrong_ones_doubles_up_to_a_quarter_of_an_hour(login: OwnerLogin, clock: Clock) -> None:
    pauses = []
    for _ in range(FREE_TRIES + 7):
        pauses.append(refusal(login, "wrong").pause)
        clock.now += pauses[-1]
    assert pauses == [0] * (FREE_TRIES - 1) + [30, 60, 120, 240, 480, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]


def test_in_a_pause_not_even_the_right_one_opens(login: OwnerLogin, clock: Clock) -> None:
    for _ in range(FREE_TRIES):
        refusal(login, "wrong")
    clock.now += 10
    assert str(refusal(login, RIGHT)) == "Too many wrong passphrases. Try again in 20 seconds."
    clock.now += 20
    assert login.knows(login.log_in(RIGHT))
    assert str(refusal(login, "wrong")) == "That is not the passphrase."  # a right one begins anew


def test_strangers_elsewhere_do_not_keep_the_owner_out_of_this_computer(login: OwnerLogin) -> None:
    for _ in range(FREE_TRIES + 3):
        refusal(login, "wrong", "elsewhere")
    assert login.knows(login.log_in(RIGHT, "here"))


def test_a_made_up_passphrase_is_four_words_and_never_the_same() -> None:
    made_up = {new_passphrase() for _ in range(20)}
    assert len(made_up) == 20
    assert all(checked_passphrase(text).count("-") >= 3 for text in made_up)


@pytest.mark.parametrize("weak", ["", "   ", "short", "elevenchars", "aaaaaaaaaaaaaaaaaaaa", "12121212121212"])
def test_a_passphrase_that_can_be_guessed_is_refused(weak: str) -> None:
    with pytest.raises(WeakPassphrase, match="LLAMAFORGE_OWNER_PASSWORD is too weak"):
        checked_passphrase(weak)
