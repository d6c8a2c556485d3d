"""Stop texts and thoughts: whatever the pieces, the same text comes out, and no word is lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations

import pytest

from llamaforge.text_stream import LONGEST_START, ReasoningSplitter, StopMatcher, as_chunks, ended_by, split_reasoning
from llamaforge.types import Chunk, Usage


def cuts(text: str) -> Iterator[list[str]]:
    """Yield a text in up to three pieces at all positions, and letter by letter."""
    for places in combinations(range(len(text) + 1), 2):
        ends = [0, *places, len(text)]
        yield [text[start:end] for start, end in zip(ends, ends[1:], strict=False)]
    yield list(text)


def shown(pieces: Iterable[str], *stop: str) -> str:
    matcher, text = StopMatcher(stop), ""
    for piece in pieces:
        text += matcher.feed(piece)
        if matcher.matched:
            return text
    return text + matcher.flush()


def split(pieces: Iterable[str]) -> tuple[str, str]:
    chunks = list(split_reasoning(pieces))
    return "".join(chunk.reasoning for chunk in chunks), "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "two"], "one "),
        ("one two three", ["two", "one two"], ""),
        ("one two three", ["four"], "one two three"),
        ("one two three", ["three four"], "one two three"),
        ("one two three", [], "one two three"),
        ("one two three", ["", "three"], "one two "),
        ("two", ["two"], ""),
        ("aaab", ["aab"], "a"),
        ("abababc", ["ababc"], "ab"),
        ("\n\nuser: hi", ["\nuser:"], "\n"),
        ("xabcd", ["abcd", "bc"], "xa"),
        ("日本語です", ["語"], "日本"),
        ("🦙🔥🦙", ["🔥🦙"], "🦙"),
    ],
    ids=repr,
)
def test_the_first_stop_text_ends_the_answer_however_it_is_cut(text: str, stop: list[str], expected: str) -> None:
    assert {shown(pieces, *stop) for pieces in cuts(text)} == {expected}


def test_no_part_of_a_stop_text_is_ever_shown() -> None:
    matcher = StopMatcher(["</end>"])
    assert [matcher.feed(piece) for piece in ("a <", "/e", "nd", ">b")] == ["a ", "", "", ""]
    assert matcher.matched


def test_what_was_held_back_for_a_stop_text_comes_when_it_is_none() -> None:
    matcher = StopMatcher(["</end>"])
    assert [matcher.feed(piece) for piece in ("a <", "/e", "xit>", "<")] == ["a ", "", "</exit>", ""]
    assert (matcher.flush(), matcher.flush(), matcher.matched) == ("<", "", False)


def test_only_what_may_become_a_stop_text_is_held_back() -> None:
    matcher = StopMatcher(["xyz"])
    assert matcher.feed("a long text x") == "a long text "
    assert matcher.feed("a") == "xa"


@pytest.mark.parametrize(
    ("answer", "reasoning", "text"),
    [
        ("<think>\nhm\n</think>\n\n42.", "hm\n", "42."),
        ("\n <think>hm</think>42.", "hm", "42."),
        ("<think></think>42.", "", "42."),
        ("<think>\n\n</think>\n\n42.", "", "42."),
        ("<think>hm</think>", "hm", ""),
        ("<think>\nhm", "hm", ""),
        ("<think>hm</thi", "hm</thi", ""),
        ("<think>a</b></think>c", "a</b>", "c"),
        ("<think>a<think>b</think>c</think>d", "a<think>b", "c</think>d"),
        ("42 <think>no</think>", "", "42 <think>no</think>"),
        ("Use <think> tags.", "", "Use <think> tags."),
        ("```\n<think>x</think>\n```", "", "```\n<think>x</think>\n```"),
        ("<thinker>", "", "<thinker>"),
        ("<thi", "", "<thi"),
        ("  \n", "", "  \n"),
        ("  spaces first", "", "  spaces first"),
        ("a</think>b", "", "a</think>b"),
        ("", "", ""),
    ],
    ids=repr,
)
def test_a_leading_thought_is_set_apart_however_it_is_cut(answer: str, reasoning: str, text: str) -> None:
    assert {split(pieces) for pieces in cuts(answer)} == {(reasoning, text)}


def test_thoughts_are_told_as_they_come() -> None:
    splitter = ReasoningSplitter()
    chunks = [splitter.feed(piece) for piece in ("<think>", "a", "b</", "think>", "\n", "c")]
    assert [chunk.reasoning for chunk in chunks] == ["", "a", "b", "", "", ""]
    assert [chunk.text for chunk in chunks] == ["", "", "", "", "", "c"]


def test_blanks_without_end_are_shown_and_not_held_back_for_ever() -> None:
    splitter = ReasoningSplitter()
    told = "".join(splitter.feed("\n").text for _ in range(LONGEST_START + 10))
    assert told == "\n" * (LONGEST_START + 10)


def test_what_a_chunk_carries_beside_text_goes_through() -> None:
    usage = Usage(3, 2)
    chunks = [Chunk(progress=0.5), Chunk("<think>a", progress=1.0), Chunk("</think>b"), Chunk("", "", "length", usage)]
    told = list(split_reasoning(chunks))
    assert [chunk.progress for chunk in told[:2]] == [0.5, 1.0]
    assert ("".join(c.reasoning for c in told), "".join(c.text for c in told)) == ("a", "b")
    assert (told[3].finish_reason, told[3].usage) == ("length", usage)


def test_reasoning_that_a_backend_tells_itself_is_left_as_it_is() -> None:
    told = list(split_reasoning([Chunk(reasoning="hm"), Chunk("42", "more"), "!"]))
    assert [(chunk.text, chunk.reasoning) for chunk in told[:3]] == [("", "hm"), ("42", "more"), ("!", "")]


def test_raw_text_keeps_its_tags() -> None:
    told = list(as_chunks(["<think>a", Chunk("</think>", finish_reason="stop")]))
    assert told == [Chunk("<think>a"), Chunk("</think>", finish_reason="stop")]


def test_a_stream_ends_before_a_stop_text_that_its_backend_does_not_know() -> None:
    left: list[str] = []

    def stream() -> Iterator[str]:
        try:
            yield from ("one t", "wo th", "ree four", " five")
        finally:
            left.append("closed")

    chunks = list(ended_by([" four"], stream()))
    assert "".join(chunk.text for chunk in chunks) == "one two three"
    assert chunks[-1].finish_reason == "stop" and left == ["closed"]


def test_what_only_begins_a_stop_text_is_not_lost() -> None:
    chunks = list(ended_by(["END"], iter(["the E", Chunk(finish_reason="length")])))
    assert "".join(chunk.text for chunk in chunks) == "the E"
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["length"]
