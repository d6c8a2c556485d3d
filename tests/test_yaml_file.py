"""YamlFile: what it refuses to read, what an edit keeps, and what a failed save leaves behind."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llamaforge import yaml_file
from llamaforge.errors import CannotSplice, ConfigConflict, ConfigError
from llamaforge.yaml_file import YamlFile, read_raw

GOOD = """\
# The small one, for tests.
backend: llama.cpp
path: "models/a b.gguf"  # relative to the project
note: |  # shown in the list
  two
  lines

parameters:
  # how creative
  temperature: 0.7   # warm
  stop: [a, 'b, c']
  n_ctx: 4096
  extra: {x: 1, y: 2}
  prompts:
  - one
  - two
# the end
"""
TEMPERATURE = ("parameters", "temperature")
DISK_FULL = "Could not save: the disk is full. Free some space and save again."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.yaml"


def parse(text: str) -> YamlFile:
    return YamlFile.from_text(Path("a.yaml"), text)


def data_of(text: str) -> dict[str, Any]:
    return parse(text).data


def problem_of(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value


def edit(text: str, *keys: str, to: Any) -> str:
    return parse(text).edited({keys: to}).text


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run_python(script: str, *arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


# Reading


def test_read_gives_plain_values_and_the_digest_of_the_bytes(path: Path) -> None:
    path.write_text(GOOD)
    file = YamlFile.read(path)
    assert (file.path, file.text) == (path, GOOD)
    assert file.digest == hashlib.sha256(GOOD.encode()).hexdigest()
    assert file.data["note"] == "two\nlines\n"
    assert file.data["parameters"]["extra"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("1_000", 1000),
        ("0x1F", 31),
        ("-7", -7),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("2024-01-01", "2024-01-01"),
        ("2001-99-99", "2001-99-99"),
        ("2024-01-01 12:00:00", "2024-01-01 12:00:00"),
        ("12:30", "12:30"),
        ("007", "007"),
        ("=", "="),
        ("C:\\models\\a.gguf", "C:\\models\\a.gguf"),
        ("${OPENAI_API_KEY}", "${OPENAI_API_KEY}"),
    ],
)
def test_plain_values_mean_what_they_look_like(text: str, value: object) -> None:
    found = data_of(f"a: {text}\n")["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    ["", "\n\n", "# only a comment\n", "---\n", "--- # start\n", "\ufeff", "{}"],
    ids=["empty", "blank lines", "comment", "document start", "start and comment", "byte order mark", "braces"],
)
def test_a_file_without_entries_is_an_empty_mapping(text: str) -> None:
    assert data_of(text) == {}


@pytest.mark.parametrize(
    "raw",
    [b"a: 1\r\nb: 2\r\n", b"a: 1\nb: 2", b"\xef\xbb\xbfa: 1\nb: 2\n", b"---\na: 1\nb: 2\n...\n"],
    ids=["CRLF", "no final newline", "byte order mark", "document marks"],
)
def test_harmless_layouts_are_accepted_and_kept(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    file = YamlFile.read(path)
    assert file.data == {"a": 1, "b": 2}
    assert file.text.encode() == raw


@pytest.mark.parametrize(
    ("text", "line", "column", "problem"),
    [
        pytest.param("a: 1\nb: 2\npath : 'x\n", 3, 8, "a quote is not closed", id="single quote"),
        pytest.param('a: "x\n', 1, 4, "a quote is not closed", id="double quote"),
        pytest.param('a: "x\nb: "y"\n', 2, 5, "a quote is not closed", id="quote closed by the next line's"),
        pytest.param("a:\n\tb: 1\n", 2, 1, "a tab is used for indentation. YAML needs spaces.", id="tab"),
        pytest.param("a:\n  b: x\n   \tc: 1\n", 3, 4, "a tab is used for indentation", id="tab after spaces"),
        pytest.param("a:\t1\n", 1, 3, "a tab is used here", id="tab after colon"),
        pytest.param('a: "C:\\models"\n', 1, 8, "a backslash in double quotes must be doubled", id="backslash"),
        pytest.param("a: 1\nb\nc: 2\n", 2, 1, "a ':' is missing after this key", id="no colon"),
        pytest.param("a: 1\n'b'\nc: 2\n", 2, 1, "a ':' is missing after this key", id="no colon after quotes"),
        pytest.param("a: b: c\n", 1, 5, "a ':' is not expected here", id="two colons"),
        pytest.param("a: 1\n  b: 2\n", 2, 4, "a ':' is not expected here", id="too deep"),
        pytest.param("a:\n    b: 1\n  c: 2\n", 3, 3, "does not fit the lines above", id="uneven indentation"),
        pytest.param("a: [1, 2\n", 1, 4, "is not closed", id="bracket"),
        pytest.param("a: {b: 1\n", 1, 4, "is not closed", id="brace"),
        pytest.param("a: @x\n", 1, 4, "this character cannot begin a value", id="at sign"),
        pytest.param("a: 1\n---\nb: 2\n", 2, 1, "only one document is allowed", id="two documents"),
        pytest.param("%YAML 2.0\n---\na: 1\n", 1, 1, "not valid YAML", id="YAML 2"),
        pytest.param("- a\n", 1, 1, "must hold 'name: value' lines", id="list"),
        pytest.param("hello\n", 1, 1, "must hold 'name: value' lines", id="text"),
        pytest.param("a: 1\nb: 2\na: 3\n", 3, 1, "the key 'a' is already on line 1", id="duplicate key"),
        pytest.param("p:\n  x: 1\n  'x': 2\n", 3, 3, "the key 'x' is already on line 2", id="nested duplicate"),
        pytest.param("1: x\n", 1, 1, "a key must be a text", id="integer key"),
        pytest.param("true: x\n", 1, 1, "a key must be a text", id="bool key"),
        pytest.param("null: x\n", 1, 1, "a key must be a text", id="null key"),
        pytest.param("? [a]\n: x\n", 1, 3, "a key must be a text", id="complex key"),
        pytest.param("<<: [1]\n", 1, 1, "merge keys ('<<') are not allowed", id="merge key"),
        pytest.param("a: &x 1\n", 1, 4, "Anchors and aliases are not allowed", id="anchor"),
        pytest.param("a: *x\n", 1, 4, "Anchors and aliases are not allowed", id="alias"),
        pytest.param("a: *.gguf\n", 1, 5, "Put a text that begins with '&' or '*' in quotes", id="glob"),
        pytest.param("a: 1\nb: 0x" + "f" * 10_000, 2, 4, "this number is too large", id="huge hex"),
        pytest.param("a: " + "9" * 10_000, 1, 4, "this number is too large", id="huge decimal"),
        pytest.param('a: "x\\0y"\n', 1, 4, "this text holds a forbidden character", id="escaped NUL"),
        pytest.param('a: "\\ud800"\n', 1, 4, "this text holds a forbidden character", id="half a character"),
        pytest.param("a: 1\nb: \x00\n", 2, None, "the character U+0000 is not allowed", id="NUL"),
        pytest.param("a: 1\nb: \x1b[0m\n", 2, None, "the character U+001B is not allowed", id="escape character"),
        pytest.param("a: 1\nb: \ud800\n", 2, None, "this is not UTF-8 text", id="lone surrogate"),
        pytest.param('a: "\\UFFFFFFFF"\n', None, None, "not valid YAML", id="escape beyond Unicode"),
    ],
)
def test_a_bad_file_names_the_place_and_the_problem(text: str, line: int, column: int, problem: str) -> None:
    error = problem_of(text)
    assert problem in error.problem
    assert (error.file, error.line, error.column) == (Path("a.yaml"), line, column)


@pytest.mark.parametrize(
    "value",
    ["!!python/object/apply:os.system ['touch canary']", "!!python/name:os.system", "!ENV x", "!!binary eA==",
     "!!set {x}", "! x", "!unknown!x y"],
)  # fmt: skip
def test_tags_are_refused_and_nothing_is_run(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert problem_of(f"a: {value}\n").problem.startswith("Tags like '!!python/…' are not allowed.")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    ["[" * 1000, "[" * 50_000, "{" * 50_000, "- " * 1000, "? " * 1000, "".join(" " * n + "a:\n" for n in range(99))],
    ids=["1,000 brackets", "50,000 brackets", "50,000 braces", "dashes", "question marks", "indentation"],
)  # fmt: skip
def test_deep_nesting_is_refused_at_once(text: str) -> None:
    start = time.perf_counter()
    assert problem_of(text).problem == "nested too deeply (limit 32)."
    assert time.perf_counter() - start < 0.2


def test_thirty_two_levels_are_read() -> None:
    assert data_of("a: " + "[" * 31 + "]" * 31)["a"]
    assert "nested too deeply" in problem_of("a: " + "[" * 32 + "]" * 32).problem


def test_too_many_values_are_refused() -> None:
    assert "more than 20,000 values" in problem_of("a: [" + "1," * 20_000 + "]").problem


@pytest.mark.parametrize(("size", "shown"), [(300, "300 KB"), (50 * 1024, "50 MB")])
def test_a_too_big_file_is_not_even_read(path: Path, size: int, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with path.open("wb") as file:
        file.truncate(size * 1024)
    monkeypatch.setattr(Path, "open", None)
    with pytest.raises(ConfigError, match=f"is {shown}; the limit is 256 KB. Is it the right file?"):
        YamlFile.read(path)


def test_a_text_of_exactly_the_limit_is_read_and_one_byte_more_is_not() -> None:
    text = "# " + "x" * (256 * 1024 - 2)
    assert data_of(text) == {}
    assert "is 257 KB; the limit is 256 KB" in problem_of(text + "x").problem


def make_missing(path: Path) -> None:
    pass


def make_endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_binary(path: Path) -> None:
    path.write_bytes(b"a: 1\nb: \xff\xfe\n")


@pytest.mark.parametrize(
    ("make", "problem", "line"),
    [
        (make_missing, "cannot be read: No such file or directory.", None),
        (Path.mkdir, "a folder or a device, not a file", None),
        (os.mkfifo, "a folder or a device, not a file", None),
        (make_endless, "a folder or a device, not a file", None),
        (make_loop, "cannot be read: ", None),
        (make_binary, "not UTF-8 text", 2),
    ],
    ids=["missing", "folder", "pipe", "endless device", "link to itself", "not UTF-8"],
)
def test_what_is_no_text_file_is_a_config_error(
    path: Path, make: Callable[[Path], object], problem: str, line: int | None
) -> None:
    make(path)
    with pytest.raises(ConfigError, match=problem) as caught:
        YamlFile.read(path)
    assert (caught.value.file, caught.value.line) == (path, line)


def test_a_name_that_no_disk_can_hold_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        YamlFile.read(Path("a\0b.yaml"))


def test_a_file_that_may_not_be_read_is_a_config_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text("a: 1\n")
    monkeypatch.setattr(Path, "open", failing(errno.EACCES))
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        YamlFile.read(path)


def test_read_raw_gives_the_text_of_a_broken_file(path: Path) -> None:
    path.write_bytes(b"a: '\xff")
    assert read_raw(path) == ("a: '\ufffd", hashlib.sha256(b"a: '\xff").hexdigest())


def mutated(chance: random.Random, text: str) -> str:
    at, size = chance.randrange(len(text)), chance.randrange(12)
    piece = chance.choice(
        [*"\"'[]{}:,#&*!|>%@?-\t\n\r\0 \\", "\ufeff", "\ud800", "- ", ": ", "<<: ", "\\U", "0x", "!!"]
    )
    return text[:at] + chance.choice([piece, piece * size, text[at : at + size] * 2]) + text[at + size :]


@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_text_is_read_or_a_config_error(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(100):
        text = mutated(chance, mutated(chance, GOOD))
        try:
            assert isinstance(data_of(text), dict)
        except ConfigError as error:
            assert error.file == Path("a.yaml")


# Places


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("backend",), 2),
        (("parameters", "temperature"), 10),
        (("parameters", "extra", "y"), 13),
        (("parameters", "missing"), 8),
        (("parameters", "temperature", "deeper"), 10),
        (("missing",), None),
        ((), None),
    ],
    ids=["top", "nested", "in braces", "missing in parent", "below a value", "missing", "no key"],
)
def test_line_of_finds_a_key_or_its_nearest_parent(keys: tuple[str, ...], line: int | None) -> None:
    assert parse(GOOD).line_of(*keys) == line


def test_an_error_is_placed_at_its_key() -> None:
    error = parse(GOOD).error("n_ctx must be a whole number.", "parameters", "n_ctx")
    assert str(error) == "a.yaml line 12: n_ctx must be a whole number."


def test_the_text_is_not_in_the_repr() -> None:
    assert "sk-secret" not in repr(parse("api_key: sk-secret\n"))


# Edits


@pytest.mark.parametrize(
    ("before", "keys", "value", "after"),
    [
        pytest.param("a:   1   # c\nb: 2\n", ("a",), 3, "a:   3   # c\nb: 2\n", id="comment and spaces stay"),
        pytest.param('"a b" : 1\n', ("a b",), 2, '"a b" : 2\n', id="spelling of the key stays"),
        pytest.param("a: 0.70\n", ("a",), 0.7, "a: 0.70\n", id="an equal value keeps its spelling"),
        pytest.param("a: 1\n", ("a",), 1.0, "a: 1.0\n", id="1 is not 1.0"),
        pytest.param("a: 'x\n  y' # c\nb: 1\n", ("a",), 2, "a: 2 # c\nb: 1\n", id="quotes over two lines"),
        pytest.param("a: |  # c\n  x\n\nb: 1\n", ("a",), "y", "a: y  # c\n\nb: 1\n", id="block of text"),
        pytest.param("a: x # c\n", ("a",), "y\nz\n", "a: | # c\n  y\n  z\n", id="text becomes a block"),
        pytest.param("a:\n- 1\n- 2\n# c\n", ("a",), [3], "a:\n- 3\n# c\n", id="list"),
        pytest.param("a: # c\n  - 1\nb: 1\n", ("a",), 3, "a: 3 # c\nb: 1\n", id="list becomes number"),
        pytest.param("a: 3 # c\n", ("a",), [], "a: [] # c\n", id="number becomes empty list"),
        pytest.param("a: [1, 2] # c\n", ("a",), [1, "x, y"], "a: [1, 'x, y'] # c\n", id="flow list"),
        pytest.param("p: {a: 1, b: 2} # c\n", ("p", "b"), 3, "p: {a: 1, b: 3} # c\n", id="flow mapping"),
        pytest.param("p: {a: 1} # c\n", ("p", "b"), "x: y", "p: {a: 1, b: 'x: y'} # c\n", id="into flow mapping"),
        pytest.param("p: {\n  a: 1, # c\n}\n", ("p", "a"), 3, "p: {\n  a: 3, # c\n}\n", id="long flow mapping"),
        pytest.param("{a: 1} # c\n", ("b",), 2, "{a: 1, b: 2} # c\n", id="whole file in braces"),
        pytest.param("{}\n", ("a",), 1, "a: 1\n", id="empty braces"),
        pytest.param("", ("p", "a"), 1, "p:\n  a: 1\n", id="empty file"),
        pytest.param("# c\n", ("a",), 1, "# c\na: 1\n", id="only a comment"),
        pytest.param("# c", ("a",), 1, "# c\na: 1", id="comment without newline"),
        pytest.param("---\n# c\n", ("a",), 1, "---\n# c\na: 1\n", id="after document start"),
        pytest.param("a: 1\n...\n", ("b",), 1, "a: 1\nb: 1\n...\n", id="before document end"),
        pytest.param("a: 1 # c\n\n# end\n", ("b",), 2, "a: 1 # c\nb: 2\n\n# end\n", id="before closing comment"),
        pytest.param("a: 1", ("b",), 2, "a: 1\nb: 2", id="no final newline"),
        pytest.param("a: 1\r\nb: 2", ("p", "c"), 3, "a: 1\r\nb: 2\r\np:\r\n  c: 3", id="CRLF"),
        pytest.param("\ufeffa: 1\nb: 1\n", ("a",), 2, "\ufeffa: 2\nb: 1\n", id="byte order mark"),
        pytest.param("p: # c\n\n  # d\nz: 1\n", ("p", "a"), 1, "p: # c\n  a: 1\n\n  # d\nz: 1\n", id="null mapping"),
        pytest.param("p: ~\n", ("p", "a"), 1, "p:\n  a: 1\n", id="tilde"),
        pytest.param("p: {}  # c\nz: 1\n", ("p", "a"), 1, "p:  # c\n  a: 1\nz: 1\n", id="empty mapping"),
        pytest.param("p:\n    a: 1\nz: 1\n", ("p", "b"), 2, "p:\n    a: 1\n    b: 2\nz: 1\n", id="own indentation"),
        pytest.param("p:\n a: |\n  x\n\n# c\n", ("p", "b"), 2, "p:\n a: |\n  x\n b: 2\n\n# c\n", id="after block"),
        pytest.param("a: 1\n", ("b",), {"x": [1, {"y": 2}]}, "a: 1\nb:\n  x:\n  - 1\n  - y: 2\n", id="nested value"),
    ],
)  # fmt: skip
def test_setting_a_value_keeps_all_other_bytes(before: str, keys: tuple[str, ...], value: Any, after: str) -> None:
    assert edit(before, *keys, to=value) == after


@pytest.mark.parametrize(
    ("before", "keys", "after"),
    [
        pytest.param("a: 1 # c\nb: 2\n", ("a",), "b: 2\n", id="its own comment goes along"),
        pytest.param("# x\na: 1\n# y\nb: 2\n", ("a",), "# x\n# y\nb: 2\n", id="comments above and below stay"),
        pytest.param("a:\n- 1\n# x\n- 2\nb: 1\n", ("a",), "# x\nb: 1\n", id="comments inside stay"),
        pytest.param("a: |\n  # no comment\nb: 1\n", ("a",), "b: 1\n", id="text that looks like a comment goes"),
        pytest.param("a: 1\nb: 2", ("b",), "a: 1", id="no final newline"),
        pytest.param("a: 1\r\nb: 2\r\n", ("a",), "b: 2\r\n", id="CRLF"),
        pytest.param("\ufeffa: 1\nb: 2\n", ("a",), "\ufeffb: 2\n", id="byte order mark"),
        pytest.param("# x\na: 1\n", ("a",), "# x\n", id="last of the file"),
        pytest.param("p:\n  # x\n  a: 1\nb: 2\n", ("p", "a"), "  # x\nb: 2\n", id="last of its parent"),
        pytest.param("p:\n  q:\n    a: 1\n", ("p", "q", "a"), "", id="last of all parents"),
        pytest.param("p: {a: 1, b: 2} # c\n", ("p", "a"), "p: {b: 2} # c\n", id="flow mapping"),
        pytest.param("p: {a: 1}\nb: 2\n", ("p", "a"), "b: 2\n", id="last of a flow mapping"),
        pytest.param("a: 1\n", ("b",), "a: 1\n", id="not there"),
        pytest.param("p:\nq: {}\n", ("p", "a"), "p:\nq: {}\n", id="not there in a null parent"),
        pytest.param("p:\nq: {}\n", ("q", "a"), "p:\nq: {}\n", id="not there in an empty parent"),
    ],
)
def test_none_deletes_an_entry(before: str, keys: tuple[str, ...], after: str) -> None:
    assert edit(before, *keys, to=None) == after


def test_many_changes_at_once_keep_every_comment() -> None:
    changes = {TEMPERATURE: 0.2, ("parameters", "stop"): ["x"], ("parameters", "n_ctx"): None, ("path",): "b.gguf"}
    text = parse(GOOD).edited({**changes, ("parameters", "top_p"): 0.9}).text
    assert text == (
        GOOD.replace("0.7   #", "0.2   #")
        .replace("[a, 'b, c']", "[x]")
        .replace("  n_ctx: 4096\n", "")
        .replace('"models/a b.gguf"', "b.gguf")
        .replace("  - two\n", "  - two\n  top_p: 0.9\n")
    )


@pytest.mark.parametrize(
    ("before", "keys", "value"),
    [
        pytest.param("a:\n- 1 # c\n- 2\n", ("a",), [3], id="comment in a list"),
        pytest.param("a:\n  b: 1\n  # c\n  d: 2\n", ("a",), {"b": 1}, id="comment in a mapping"),
        pytest.param("a:\n  b: | # c\n    x\n", ("a",), 1, id="comment behind a block sign"),
        pytest.param("p: [\n  1, # c\n]\n", ("p",), [2], id="comment in a long flow list"),
        pytest.param("p: {\n  a: 1, # c\n}\n", ("p", "b"), 2, id="into a long flow mapping"),
        pytest.param("p:\n  a: |+\n    x\n\n\n# c\n", ("p", "b"), 2, id="after text that keeps its empty lines"),
        pytest.param("? a\n: 1\n", ("a",), 2, id="question mark key"),
        pytest.param("a: 1\nb: 2\r\nc: 3\n", ("c",), 4, id="mixed line ends"),
        pytest.param("a: 1\rb: 2\r", ("b",), 3, id="old Mac line ends"),
        pytest.param("p: 5\n", ("p", "a"), 1, id="parent is a number"),
        pytest.param("p: []\n", ("p", "a"), 1, id="parent is a list"),
        pytest.param("a: 1\n", ("b",), "x" * 256 * 1024, id="too big afterwards"),
    ],
)
def test_an_edit_that_could_lose_something_is_refused(before: str, keys: tuple[str, ...], value: Any) -> None:
    with pytest.raises(CannotSplice) as caught:
        edit(before, *keys, to=value)
    assert caught.value.problem.endswith("Save as copy, or edit the file by hand.")
    assert caught.value.file == Path("a.yaml")


TEXTS = [
    "", "on", "null", "1e-3", "1E5", "007", "12:30", "0x1f", "2024-01-01", "=", "<<", "~", "#x", "a: b", "a #b", "- x",
    "---", "a\n---\nb", "%x", "@x", "*x", "!x", "'", '"', "\\", "\t", "a\tb\nc", " lead", "trail ", "\n", "\n\n",
    "\nx", "  lead\nline\n", "a \nb", "x\r\ny", "x\n\n", "# no\n# comment\n", "\x85", "\u2028x", "\ufeffx\ny", "\x7f",
    "\x1b", "é", "😀", "long " * 60,
]  # fmt: skip


@pytest.mark.parametrize(
    "value", [*TEXTS, 0, -1, 2**63, 1e-7, 1e16, math.inf, math.nan, True, [], {}, [[1], {"a": None}]], ids=repr
)
def test_every_value_survives_every_way_into_a_file(value: Any) -> None:
    for before in ["a: x # c\nz: 1\n", "a: {b: 1}\n", "a:\n- 1\nz: 1\n", "a: # c\n", "z: 1\r\n", "{z: 1}\n", ""]:
        assert repr(parse(before).edited({("a",): value}).data["a"]) == repr(value)
    assert repr(parse("p: {x: 1}").edited({("p", "a"): value}).data["p"]["a"]) == repr(value)
    assert repr(YamlFile.new(Path("a.yaml"), {"a": value}).data["a"]) == repr(value)


@pytest.mark.parametrize("seed", range(5))
def test_an_edit_of_any_layout_is_right_or_refused(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(40):
        try:
            file = parse(mutated(chance, GOOD))
            edited = file.edited({TEMPERATURE: 0.25, ("parameters", "n_ctx"): None, ("new",): "x"})
        except ConfigError:
            continue
        assert edited.data["parameters"]["temperature"] == 0.25
        assert edited.text.count("# how creative") == file.text.count("# how creative")


def test_an_edited_file_remembers_what_was_on_disk(path: Path) -> None:
    path.write_text(GOOD)
    file = YamlFile.read(path)
    assert file.edited({TEMPERATURE: 1}).digest == file.digest
    assert file.data["parameters"]["temperature"] == 0.7


# New files


def test_a_new_file_keeps_the_order_and_writes_long_text_as_a_block() -> None:
    file = YamlFile.new(Path("a.yaml"), {"z": "é", "a": {"prompt": "one\ntwo\n", "on": True}})
    assert file.text == "z: é\na:\n  prompt: |\n    one\n    two\n  'on': true\n"
    assert (file.digest, YamlFile.new(Path("a.yaml"), {}).text) == (None, "")


def test_a_list_used_twice_becomes_no_alias() -> None:
    words = ["a"]
    assert YamlFile.new(Path("a.yaml"), {"x": words, "y": words}).data == {"x": ["a"], "y": ["a"]}


# Saving


def test_saving_a_new_file_makes_its_folder_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "configs" / "models" / "a.yaml"
    saved = YamlFile.new(path, {"a": 1}).save()
    assert path.read_text() == saved.text == "a: 1\n"
    assert saved == YamlFile.read(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names_in(path.parent) == ["a.yaml"]


def test_saving_keeps_the_bytes_and_the_mode(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2")
    path.chmod(0o640)
    YamlFile.read(path).edited({("b",): 3}).save()
    assert path.read_bytes() == b"\xef\xbb\xbfa: 1\r\nb: 3"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("exists", [True, False], ids=["to a file", "to nothing yet"])
def test_saving_writes_through_a_link(tmp_path: Path, path: Path, exists: bool) -> None:
    target = tmp_path / "real" / "b.yaml"
    path.symlink_to(target)
    if exists:
        YamlFile.new(target, {"a": 1}).save()
    YamlFile.new(path, {"a": 2}).save(overwrite=True)
    assert path.is_symlink()
    assert target.read_text() == "a: 2\n"
    assert names_in(tmp_path) + names_in(tmp_path / "real") == ["a.yaml", "real", "b.yaml"]


def test_a_saved_file_can_be_saved_again(path: Path) -> None:
    first = YamlFile.new(path, {"a": 1}).save()
    second = first.edited({("a",): 2}).save()
    assert second.edited({("a",): 3}).save().data == {"a": 3}
    assert path.read_text() == "a: 3\n"


def test_a_file_that_another_window_changed_is_not_overwritten(path: Path) -> None:
    ours = YamlFile.new(path, {"a": 1}).save()
    ours.edited({("a",): 2}).save()
    os.utime(path, (time.mktime((2024, 5, 1, 14, 2, 0, 0, 0, -1)),) * 2)
    with pytest.raises(ConfigConflict, match="was changed in another window at 14:02. Nothing was saved."):
        ours.edited({("a",): 3}).save()
    assert path.read_text() == "a: 2\n"
    assert names_in(path.parent) == ["a.yaml"]


def test_a_new_file_does_not_replace_one_that_exists(path: Path) -> None:
    path.write_text("precious: true\n")
    with pytest.raises(ConfigConflict, match="was created in another window"):
        YamlFile.new(path, {"a": 1}).save()
    assert path.read_text() == "precious: true\n"


def test_a_file_that_was_deleted_meanwhile_is_a_conflict(path: Path) -> None:
    ours = YamlFile.new(path, {"a": 1}).save()
    path.unlink()
    with pytest.raises(ConfigConflict, match="was deleted in another window"):
        ours.save()
    assert names_in(path.parent) == []


@pytest.mark.parametrize("on_disk", ["a: 2\n", "broken: '\n", None], ids=["changed", "broken", "deleted"])
def test_overwrite_saves_whatever_is_on_disk(path: Path, on_disk: str | None) -> None:
    ours = YamlFile.new(path, {"a": 1}).save()
    path.unlink()
    if on_disk is not None:
        path.write_text(on_disk)
    assert ours.save(overwrite=True) == ours
    assert path.read_text() == "a: 1\n"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, make_endless], ids=["folder", "pipe", "device"])
def test_only_a_file_is_ever_replaced(path: Path, make: Callable[[Path], object]) -> None:
    make(path)
    with pytest.raises(ConfigError, match="a folder or a device, not a file"):
        YamlFile.new(path, {"a": 1}).save(overwrite=True)
    assert not path.is_file()
    assert names_in(path.parent) == ["a.yaml"]


def failing(code: int, *, call: int = 1) -> Callable[..., Any]:
    calls = iter(range(1, 100))

    def fail(*args: object, **kwargs: object) -> None:
        if next(calls) == call:
            raise OSError(code, os.strerror(code))

    return fail


STEPS = ["tempfile.mkstemp", "os.fdopen", "shutil.copymode", "os.fsync", "os.replace"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (errno.ENOSPC, DISK_FULL),
        (errno.EDQUOT, DISK_FULL),
        (errno.EFBIG, DISK_FULL),
        (errno.EIO, "Could not save: Input/output error. The file is as it was before."),
        (errno.EACCES, "Could not save: no permission to write here."),
        (errno.EPERM, "Could not save: no permission to write here."),
        (errno.EROFS, "Could not save: the disk is read-only."),
    ],
    ids=["ENOSPC", "EDQUOT", "EFBIG", "EIO", "EACCES", "EPERM", "EROFS"],
)
def test_a_save_that_fails_leaves_the_old_bytes_and_no_other_file(
    path: Path, step: str, code: int, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = YamlFile.new(path, {"a": 1}).save().edited({("a",): 2})
    with monkeypatch.context() as patch, pytest.raises(ConfigError) as caught:
        patch.setattr(f"llamaforge.yaml_file.{step}", failing(code))
        file.save()
    assert caught.value.problem.startswith(problem)
    assert names_in(path.parent) == ["a.yaml"]
    assert path.read_text() == "a: 1\n"
    assert file.save().data == {"a": 2}


def test_a_disk_that_is_full_while_writing_leaves_the_old_bytes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = YamlFile.new(path, {"a": 1}).save().edited({("a",): 2})
    real_fdopen = os.fdopen

    def open_full_disk(handle: int, mode: str) -> Any:
        os.close(handle)
        return real_fdopen(os.open("/dev/full", os.O_WRONLY), mode)

    monkeypatch.setattr(os, "fdopen", open_full_disk)
    with pytest.raises(ConfigError) as caught:
        file.save()
    assert caught.value.problem == DISK_FULL
    assert (names_in(path.parent), path.read_text()) == (["a.yaml"], "a: 1\n")


def test_an_interrupted_save_cleans_up_and_stays_an_interrupt(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        YamlFile.new(path, {"a": 1}).save()
    assert names_in(path.parent) == []


def test_a_folder_that_cannot_be_synced_does_not_fail_the_save(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL, call=2))
    YamlFile.new(path, {"a": 1}).save()
    assert path.read_text() == "a: 1\n"


def test_a_parent_that_is_a_file_is_a_config_error(path: Path) -> None:
    path.write_text("a: 1\n")
    with pytest.raises(ConfigError, match="Could not save: "):
        YamlFile.new(path / "b.yaml", {"a": 1}).save()


FULL_DISK = """
import resource, sys
from pathlib import Path
from llamaforge.errors import ConfigError
from llamaforge.yaml_file import YamlFile

resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    YamlFile.read(Path(sys.argv[1])).edited({("a",): "x" * 5000}).save()
except ConfigError as error:
    print(error.problem)
"""


def test_a_process_that_may_write_no_more_loses_nothing(path: Path) -> None:
    path.write_text("a: 1\n")
    assert run_python(FULL_DISK, path).strip() == DISK_FULL
    assert (names_in(path.parent), path.read_text()) == (["a.yaml"], "a: 1\n")


KILLED_AT_EVERY_LINE = """
import os, sys
from pathlib import Path
from llamaforge.yaml_file import YamlFile

def die_at(left):
    def trace(frame, event, argument):
        nonlocal left
        if frame.f_code.co_filename.endswith("yaml_file.py"):
            left -= event == "line"
            return trace if left else os._exit(9)
    return trace

path, code, step = Path(sys.argv[1]), 9, 0
while code == 9:
    step += 1
    path.write_text("a: old\\n")
    child = os.fork()
    if not child:
        file = YamlFile.read(path).edited({("a",): "new"})
        sys.settrace(die_at(step))
        file.save()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(repr(path.read_text()))
"""


def test_a_process_killed_at_any_line_of_a_save_leaves_old_or_new_bytes(path: Path) -> None:
    found = run_python(KILLED_AT_EVERY_LINE, path).split("\n")[:-1]
    assert len(found) > 30
    assert found == sorted(found, reverse=True)  # the old bytes at each step, then the new ones
    assert set(found) == {r"'a: old\n'", r"'a: new\n'"}
    assert YamlFile.read(path).edited({("a",): "next"}).save().data == {"a": "next"}
    assert ".a.yaml.lock" not in names_in(path.parent)


def test_a_file_that_another_program_is_saving_is_a_config_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_file, "_LOCK_SECONDS", 0.05)
    with path.with_name(".a.yaml.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="Could not save: another program is saving this file."):
            YamlFile.new(path, {"a": 1}).save()
    assert names_in(path.parent) == [".a.yaml.lock"]
    YamlFile.new(path, {"a": 1}).save()


def add_one(path: Path, times: int) -> None:
    while times:
        file = YamlFile.read(path)
        try:
            file.edited({("count",): file.data["count"] + 1}).save()
            times -= 1
        except ConfigConflict:
            pass


def test_saves_at_the_same_time_lose_no_update(path: Path) -> None:
    YamlFile.new(path, {"count": 0}).save()
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(add_one, path, 10) for _ in range(4)]:
            done.result()
    assert YamlFile.read(path).data == {"count": 40}
    assert names_in(path.parent) == ["a.yaml"]
