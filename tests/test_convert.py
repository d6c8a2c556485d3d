"""What the page shows of plain values: figures and sentences."""

from __future__ import annotations

import re

import pytest

from llamaforge import GenerationError, LoadProgress, ModelError, Result, Status, Usage
from llamaforge_ui.convert import (
    figures,
    notice,
    seconds,
    sentence_for,
    status_line,
)


def result_of(finish_reason: str = "stop", **more: object) -> Result:
    known = {"usage": Usage(9, 312), "seconds": 8.0, "time_to_first_token": 0.42, "tokens_per_second": 41.3}
    return Result("text", "", finish_reason, **{**known, **more})  # type: ignore[arg-type]


def test_an_answer_that_failed_says_so() -> None:
    assert figures(result_of("error", error=GenerationError("Out of luck."))).endswith("ended by an error")


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (result_of(), "312 tokens · 0.42 s to first · 41 tokens/s · finished"),
        (result_of("length"), "312 tokens · 0.42 s to first · 41 tokens/s · stopped at 312 tokens"),
        (result_of("cancelled"), "312 tokens · 0.42 s to first · 41 tokens/s · stopped"),
        (result_of(usage=Usage(9, 1), tokens_per_second=None), "1 token · 0.42 s to first · finished"),
        (result_of("cancelled", usage=None, time_to_first_token=None, tokens_per_second=None), "stopped"),
        (result_of("length", usage=None), "0.42 s to first · 41 tokens/s · stopped at the limit"),
        (result_of(usage=Usage(9, 1234), time_to_first_token=None), "1,234 tokens · 41 tokens/s · finished"),
    ],
    ids=["finished", "length", "stopped", "one token", "nothing known", "no usage", "thousands"],
)  # fmt: skip
def test_figures_say_what_was_measured_and_no_more(result: Result, line: str) -> None:
    assert figures(result) == line


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00 s"),
        (0.042, "0.04 s"),
        (0.94, "0.94 s"),
        (3.21, "3.2 s"),
        (60.0, "1 min 0 s"),
        (119.7, "2 min 0 s"),
        (125.0, "2 min 5 s"),
    ],
)
def test_durations_are_read_as_a_person_says_them(value: float, text: str) -> None:
    assert seconds(value) == text


def test_a_notice_is_text_with_a_role() -> None:
    assert notice("") == ""
    assert notice('<b>"bold"</b>') == (
        '<div class="lf-problem" role="alert"><p>&lt;b&gt;&quot;bold&quot;&lt;/b&gt;</p></div>'
    )  # fmt: skip
    assert "<summary>Details</summary><pre>llama.cpp: &lt;why&gt;</pre>" in notice("No.", details="llama.cpp: <why>")
    assert 'role="status"' in notice("Saved.", "hint")


def test_an_error_of_ours_is_shown_and_a_bug_is_not() -> None:
    assert sentence_for("owner", ModelError("File not found: x.gguf.")) == "File not found: x.gguf."
    assert sentence_for("owner", KeyError("secret/path")) == "Something went wrong."


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (Status(), "nothing loaded"),
        (Status("loading", "big"), "loading big · 7 s"),
        (Status("unloading", "big"), "unloading"),
        (Status("ready", "big", summary=("4.1 GB", "on CPU")), "ready · 4.1 GB · on CPU"),
    ],
    ids=["empty", "loading", "unloading", "ready"],
)
def test_the_owner_sees_what_is_loaded_and_how(status: Status, text: str) -> None:
    assert text in shown(status_line(status, 7.4, public=False))


def shown(line: str) -> str:
    return re.sub("<[^>]*>", "", line)


def test_a_load_tells_how_far_it_is_where_the_engine_tells() -> None:
    loading = Status("loading", "big")
    assert "loading big · 42% · 7 s" in status_line(loading, 7.4, public=False, progress=LoadProgress(0.42))
    fetching = LoadProgress(None, "downloading")
    assert "downloading big · 7 s" in status_line(loading, 7.4, public=False, progress=fetching)


def test_guests_see_no_facts_about_the_machine() -> None:
    line = status_line(Status("ready", "big", summary=("4.1 GB", "32 of 32 layers on GPU")), 0, public=True)
    assert "ready" in line
    assert "GB" not in line and "GPU" not in line


def test_a_models_name_is_text_in_the_status_line() -> None:
    assert "<b>" not in status_line(Status("loading", "<b>"), 1, public=False)
