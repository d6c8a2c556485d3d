"""What the backends are good at stands side by side where one is chosen."""

from __future__ import annotations

import re
from typing import Any

import pytest
from scripted import ScriptedBackend

from llamaforge import Strengths, get_backend, register_backend
from llamaforge_ui.comparison import QUALITIES, comparison

BUILT_IN = ["llama.cpp", "huggingface", "openai"]


def columns(table: str) -> list[str]:
    return re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table)


def chosen(table: str) -> list[str]:
    return re.findall(r'class="lf-chosen">(.*?)</t[hd]>', table)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_engine_says_five_short_things_of_itself(name: str) -> None:
    strengths = get_backend(name).strengths
    assert QUALITIES == ("performance", "flexibility", "quality", "cost", "privacy")
    assert all(5 < len(getattr(strengths, quality)) <= 50 for quality in QUALITIES)
    assert [text.replace("&#x27;", "'") for text in chosen(comparison(name))] == [
        name,
        *(getattr(strengths, quality) for quality in QUALITIES),
    ]


def test_a_backend_that_says_nothing_of_itself_is_left_out_and_none_is_marked() -> None:
    table = comparison("echo")
    assert columns(table) == BUILT_IN and chosen(table) == [] and "lf-others" in table


def test_a_backend_of_somebodys_own_is_compared_as_text() -> None:
    class Mine(ScriptedBackend):
        strengths = Strengths(performance="<b>fast</b>", privacy="stays & rests here")

    register_backend("mine", Mine)
    table = comparison("mine")
    assert columns(table) == [*BUILT_IN, "mine"]
    assert chosen(table) == ["mine", "&lt;b&gt;fast&lt;/b&gt;", "", "", "", "stays &amp; rests here"]


@pytest.mark.parametrize("said", ["fast", None, 7])
def test_a_backend_that_says_something_else_is_left_out(said: Any) -> None:
    class Odd(ScriptedBackend):
        strengths = said

    register_backend("odd", Odd)
    register_backend("broken", "no_such_module:Backend")
    assert columns(comparison("odd")) == BUILT_IN
