"""A page sees a model's file without its keys, and saves it with them, wherever and however they stand in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai_kit import CANARY

from llamaforge import Config, ConfigConflict, ConfigError, LlamaForgeError
from llamaforge.key_mask import MASK, keys_in, masked, unmasked, without_masks

PLAIN = "a-key-that-looks-like-none"
HEAD = "backend: openai\npath: gpt\nparameters:\n"
VALID = {
    "plain": f"{HEAD}  api_key: {CANARY}  # mine\n  top_p: 0.5\n",
    "double quotes": f'{HEAD}  api_key: "{PLAIN}"\n',
    "single quotes": f"{HEAD}  'api_key'  :   '{PLAIN}'   # mine\n",
    "block": f"{HEAD}  api_key: |-  # mine\n    {PLAIN}\n\n  # after\n  top_p: 0.5\n",
    "folded": f"{HEAD}  api_key: >\n    {PLAIN}\n",
    "flow": f"backend: openai\npath: gpt\nparameters: {{api_key: {CANARY}, top_p: 0.5}}\n",
    "flow, quoted": f'backend: openai\npath: gpt\nparameters: {{"top_p": 0.5, "api_key": "{PLAIN}"}}\n',
    "next line": f"{HEAD}  api_key:\n    {PLAIN}\n  top_p: 0.5\n",
    "windows": f"{HEAD}  api_key: {PLAIN}\n".replace("\n", "\r\n"),
    "twice": f"{HEAD}  api_key: {PLAIN}\ndescription: uses {PLAIN}\n",
    "comments": f"# OPENAI_API_KEY={PLAIN}\n{HEAD}  top_p: 0.5\n  # api_key: '{PLAIN}'\n# before: {CANARY}\n",
    "wrong place": f"backend: openai\npath: gpt\nmine: {{other: [{{api-key: {PLAIN}}}]}}\n",
}
BROKEN = {
    "unclosed quote": f'{HEAD}  api_key: "{PLAIN}\n  top_p: 0.5\n',
    "quote over lines": f'{HEAD}  api_key: "\n{PLAIN}\n  top_p: [\n',
    "unclosed flow": f"backend: openai\nparameters: {{api_key: {PLAIN}, top_p: [0.5\n",
    "tab": f"{HEAD}\tapi_key: {PLAIN}\n",
    "equals": f"{HEAD}  api_key = {PLAIN}\n x: 3\n",
    "block": f"{HEAD}  api_key: |\n    {PLAIN}\n  top_p: [1\n",
    "next line": f"{HEAD}  api_key:\n    {PLAIN}\n  top_p: [1\n",
    "twice": f"{HEAD}  api_key: {PLAIN}\n  api_key: {CANARY}\n",
    "misspelt": f"{HEAD}  api_kye: {CANARY}\n  top_p: [\n",
    "anchor": f"{HEAD}  api_key: &mine {PLAIN}\n",
    "tag": f"{HEAD}  api_key: !!str {PLAIN}\n",
    "no key field": f"{HEAD}  top_p: [\n# 0123456789abcdef0123456789abcdef, bearer {CANARY}\n",
}
CASES = [pytest.param(text, id=name) for name, text in VALID.items()] + [
    pytest.param(text, id=f"broken: {name}") for name, text in BROKEN.items()
]


@pytest.mark.parametrize("text", CASES)
def test_a_file_is_shown_without_its_keys_and_nothing_is_lost(text: str) -> None:
    shown = masked(text)
    assert MASK in shown and "backend: openai" in shown
    assert not [secret for secret in (CANARY, PLAIN, "0123456789abcdef") if secret in shown]
    assert unmasked(shown, text) == text
    assert not [secret for secret in (CANARY, PLAIN) if secret in without_masks(shown)]


@pytest.mark.parametrize("value", ["${OPENAI_API_KEY}   # from the environment", '"${OPENAI_API_KEY}"', "", "null"])
def test_the_name_of_a_variable_is_no_secret(value: str) -> None:
    text = f"{HEAD}  api_key: {value}\n  max_tokens: 5\n"
    assert masked(text) == text and not keys_in(text)


def test_a_field_that_a_backend_calls_secret_is_masked_too() -> None:
    for end in ("", "x: [\n"):
        text = f"{HEAD}  pass_phrase: {PLAIN}\n  my_pass_phrase: seen by all\n{end}"
        assert masked(text, ["pass_phrase"]) == text.replace(PLAIN, MASK)
        assert keys_in(text, ["pass_phrase"]) == {PLAIN}


def test_several_keys_are_told_apart() -> None:
    text = f"{HEAD}  api_key: {PLAIN}\n# api_key: {CANARY}\n"
    first, second = masked(text).splitlines()[-2:]
    assert MASK in first and "•••• (in file 2)" in second
    assert unmasked(f"{HEAD}{first}\n", text) == f"{HEAD}  api_key: {PLAIN}\n"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "gpt.yaml").write_text(VALID["plain"], "utf-8")
    return Config(tmp_path)


def test_a_save_with_the_mask_keeps_the_key_as_it_was_written(config: Config) -> None:
    shown, digest = config.shown("gpt")
    model = config.save_shown("gpt", shown.replace("0.5", "0.25"), digest=digest)
    assert model.parameters == {"api_key": CANARY, "top_p": 0.25}
    assert config.raw("gpt")[0] == VALID["plain"].replace("0.5", "0.25")


def test_another_key_replaces_the_masked_one(config: Config) -> None:
    shown, digest = config.shown("gpt")
    config.save_shown("gpt", shown.replace(MASK, "${OPENAI_API_KEY}"), digest=digest)
    assert config.raw("gpt")[0] == VALID["plain"].replace(CANARY, "${OPENAI_API_KEY}")


def test_a_copy_has_no_key_and_can_be_given_one(config: Config) -> None:
    copy = config.save_copy("gpt", config.shown("gpt")[0])
    assert copy.name == "gpt copy" and copy.parameters == {"top_p": 0.5} and copy.problem is None
    assert config.raw("gpt copy")[0] == VALID["plain"].replace(CANARY, "")
    assert config.raw("gpt")[0] == VALID["plain"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("path: gpt", f"path: {MASK}", "can only stay where it was"),
        ("  top_p: 0.5", "  api_base: https://elsewhere.example/v1", "write the key anew"),
        ("  top_p: 0.5", "  top_p: •••• (in file 7)", "'•••• (in file 7)' stands for no key"),
    ],
)
def test_a_masked_key_goes_nowhere_else(config: Config, old: str, new: str, words: str) -> None:
    shown, digest = config.shown("gpt")
    with pytest.raises(ConfigError, match=words.replace("(", r"\(").replace(")", r"\)")):
        config.save_shown("gpt", shown.replace(old, new), digest=digest)
    assert config.raw("gpt")[0] == VALID["plain"]


def test_a_broken_file_is_mended_without_seeing_its_key(config: Config) -> None:
    broken = f"{HEAD}  api_key: {PLAIN}\n  api_base: http://127.0.0.1:1/v1\n  top_p: [0.5\n"
    config.file_of("gpt").write_text(broken, "utf-8")
    config.reload()
    shown, digest = config.shown("gpt")
    with pytest.raises(LlamaForgeError):
        config.save_copy("gpt", shown)
    model = config.save_shown("gpt", shown.replace("[0.5", "0.5"), digest=digest)
    assert model.parameters == {"api_key": PLAIN, "api_base": "http://127.0.0.1:1/v1", "top_p": 0.5}


def test_a_key_that_changed_on_disk_is_not_mixed_up_with_the_masked_one(config: Config) -> None:
    shown, digest = config.shown("gpt")
    config.file_of("gpt").write_text(HEAD + "  top_p: 0.1\n", "utf-8")
    with pytest.raises(ConfigConflict):
        config.save_shown("gpt", shown, digest=digest)
    with pytest.raises(ConfigError, match="stands for no key in the file as it is now"):
        config.save_shown("gpt", shown, digest=digest, overwrite=True)
    assert "api_key" not in config.raw("gpt")[0]
