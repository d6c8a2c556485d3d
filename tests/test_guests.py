"""What settings.yaml and a model's file may say about guests."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamaforge import Config, GuestLimits, LlamaForge


def settings(folder: Path, text: str) -> Config:
    (folder / "settings.yaml").write_text(text, "utf-8")
    return Config(folder)


def test_limits_that_are_left_out_have_their_defaults(tmp_path: Path) -> None:
    limits = settings(tmp_path, "guests:\n  max_tokens: 64\n  open: false\n").settings.guests
    assert (limits.max_tokens, limits.open, limits.messages_per_10_minutes) == (64, False, 20)
    assert Config(tmp_path / "empty").settings.guests == GuestLimits()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "guests:\n  max_token: 64\n",
            "settings.yaml line 2: Unknown setting 'max_token'. Did you mean 'max_tokens'?",
        ),
        ("guests:\n  max_tokens: 0\n", "line 2: max_tokens must be a whole number from 1 to 1,048,576, found 0."),
        ("guests:\n  open: sometimes\n", "line 2: open must be true or false, found 'sometimes'."),
        ("guests: 5\n", "line 1: guests must be lines of 'name: value'"),
        ("allowed_hosts: chat.example\n", "line 1: allowed_hosts must be a list of names"),
    ],
    ids=["unknown", "too small", "wrong type", "no block", "no list"],
)
def test_a_wrong_limit_is_told_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in str(settings(tmp_path, text).settings.problem)


@pytest.mark.parametrize("allowed", [True, False, None])
def test_a_models_word_about_guests_survives_saving(tmp_path: Path, allowed: bool | None) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("a", "x", "echo", guests=allowed)
    forge.config.save()
    assert Config(tmp_path).models["a"].guests is allowed
