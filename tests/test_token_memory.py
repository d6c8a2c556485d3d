"""The tokens that a chat was read and written in come back with it, and nothing of another one's."""

from __future__ import annotations

from collections.abc import Sequence

from llamaforge.chat_template import Segment
from llamaforge.token_memory import MOST_CHATS, TokenMemory

WRITTEN = -1  # the token by which the model says "yes", which the tokenizer spells letter by letter


def spelled(segments: Sequence[Segment]) -> list[int]:
    return [ord(letter) for segment in segments for letter in segment.text]


def read(memory: TokenMemory, text: str) -> list[int]:
    return memory.tokens_of([Segment(text, literal=False)], spelled, spelled)


def answered(memory: TokenMemory, text: str) -> list[int]:
    """Read a prompt and answer it with a yes; return its tokens."""
    tokens = read(memory, text)
    memory.begin([Segment(text, literal=False)], tokens)
    memory.add(WRITTEN, "yes", whole=True)
    return tokens


def test_each_of_several_chats_goes_on_in_its_own_tokens() -> None:
    memory = TokenMemory()
    for text in ("A?", "B?", "A?yes.", "B?yes."):
        answered(memory, text)
    assert read(memory, "A?yes.yes!") == [*spelled_text("A?"), WRITTEN, ord("."), WRITTEN, ord("!")]
    assert read(memory, "B?yes.yes!") == [*spelled_text("B?"), WRITTEN, ord("."), WRITTEN, ord("!")]


def test_an_edited_message_leaves_the_tokens_before_it() -> None:
    memory = TokenMemory()
    for text in ("A?", "A?yes.", "A?yes.yes."):
        answered(memory, text)
    assert read(memory, "A?yes!") == [*spelled_text("A?"), WRITTEN, ord("!")]
    answered(memory, "A?yes!")
    assert read(memory, "A?yes.yes.").count(WRITTEN) == 2  # as it was before the edit


def test_an_edited_answer_is_read_with_its_question() -> None:
    memory = TokenMemory()
    for text in ("A?", "A?yes."):
        answered(memory, text)
    assert read(memory, "A?yes.no") == [*spelled_text("A?"), WRITTEN, *spelled_text(".no")]
    assert read(memory, "A?no.yes") == spelled_text("A?no.yes")


def test_a_prompt_that_ends_within_an_answer_has_its_first_tokens() -> None:
    memory = TokenMemory()
    memory.begin([Segment("A?", literal=False)], spelled_text("A?"))
    for token, text in ((WRITTEN, "yes"), (-2, " sir")):
        memory.add(token, text, whole=True)
    assert read(memory, "A?yes") == [*spelled_text("A?"), WRITTEN]
    assert read(memory, "A?") == spelled_text("A?")


def test_an_answer_that_is_written_anew_takes_the_place_of_the_old_one() -> None:
    memory = TokenMemory()
    answered(memory, "A?")
    for _ in range(2 * MOST_CHATS):
        answered(memory, "B?")
    assert read(memory, "A?yes") == [*spelled_text("A?"), WRITTEN]


def test_the_oldest_of_many_chats_is_forgotten() -> None:
    memory = TokenMemory()
    for number in range(MOST_CHATS + 1):
        answered(memory, f"{number}?")
    assert WRITTEN not in read(memory, "0?yes")
    assert WRITTEN in read(memory, "1?yes")


def test_a_prompt_that_is_not_to_be_remembered_is_not() -> None:
    memory = TokenMemory()
    memory.begin([], [1, 2, 3])
    memory.add(WRITTEN, "yes", whole=True)
    assert read(memory, "yes") == spelled_text("yes")


def spelled_text(text: str) -> list[int]:
    return spelled([Segment(text, literal=False)])
