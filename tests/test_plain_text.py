"""Text is only text: what would be markup loses its meaning, and comes back as it was."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge_ui.plain_text import JOINER, exact, harmless

PIECES = [
    *("<", "!", "[", "]", "a", " ", "\n", "\r", "```", "~~~", "\n```html\n", "\n   ~~~\n", "mermaid", "</", "br>"),
    *("$$", "\\(", "\\)", "- ", "> ", JOINER),
]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("<b onclick=x>", "<|b onclick=x>"),
        ("</div><!-- a --><?b?>", "<|/div><|!-- a --><|?b?>"),
        ("![a](http://b/c) ![d][e]", "!|[a](http://b/c) !|[d][e]"),
        ("a < b, a<=b, 1<2, wow! [a](b)", "a < b, a<=b, 1<2, wow! [a](b)"),
        ("H<sub>2</sub>O<br><BR/><br />", "H<sub>2</sub>O<br><BR/><br />"),
        ("<sub id=x><subs>", "<|sub id=x><|subs>"),
        ("<https://a.b/c> <javascript:x>", "<https://a.b/c> <|javascript:x>"),
        ("`<a>`", "`<|a>`"),
        ("```html\n<a>![b]\n```\n<c>", "```html\n<a>![b]\n```\n<|c>"),
        ("1. so:\n   ~~~\n   <a>\n\n   <b>\n   ~~~\n<c>", "1. so:\n   ~~~\n   <a>\n\n   <b>\n   ~~~\n<|c>"),
        ("```\n<still written", "```\n<still written"),
        ("```mermaid\n<a>\n```\n~~~ cpp\n<b>", "```|mermaid\n<a>\n```\n~~~| cpp\n<b>"),
        ("\\(a<b\\) and $$x<y$$", "\\(a<|b\\) and $$x<|y$$"),
    ],
)
def test_html_and_pictures_lose_their_meaning_and_harmless_tags_and_code_keep_theirs(said: str, shown: str) -> None:
    assert harmless(said) == shown.replace("|", JOINER)


@pytest.mark.parametrize(
    "doubtful",
    [
        "- a\n  ```\n{}\n  ```",
        "> ```\n{}\n> ```",
        "    ```\n{}\n    ```",
        "```a`b\n{}",
        "  ```\nout\n  ```\n{}",
        "  ```\n ```\n  {}",
        "<br>\n```\n{}\n```",
        "[a]:\n```\n{}\n```",
        "\\(\n```\n\\)\n{}",
        "```$$\n{}",
        "```\r```\r\n{}",
    ],
)
def test_what_may_be_no_code_is_not_taken_for_code(doubtful: str) -> None:
    assert f"<{JOINER}a>" in harmless(doubtful.format("<a>"))


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=30).map("".join))
@settings(max_examples=1000, deadline=None, database=None)
def test_every_text_comes_back_from_the_page_as_it_was(text: str) -> None:
    assert exact(harmless(text)) == text


@pytest.mark.parametrize(
    "piece", ["<", "<a", "`", "```\n", "\n```\n<a\n", "  ```\n", "![", "[ ] ", "1", "\\(", "$$", "<https://", "\n"]
)
def test_a_long_text_takes_no_more_time_for_each_letter(piece: str) -> None:
    began = time.perf_counter()
    harmless(piece * (400_000 // len(piece)))
    assert time.perf_counter() - began < 5  # it takes a tenth; with quadratic time, minutes
