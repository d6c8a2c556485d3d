"""Files of the Hugging Face Hub, fetched from a stand-in on loopback by the real huggingface_hub."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hub_kit import REPO, partial_of, sentence_of
from hub_stand_in import COMMIT, TOKEN, Hub
from scripted import run_python, until

from llamaforge import ModelFileError, hub
from llamaforge.hub import HubPath, choose_gguf, parse

GATED = f"{REPO} asks for your consent. Accept its licence on its page at huggingface.co and set HF_TOKEN."


class Usage(NamedTuple):
    """What shutil.disk_usage returns."""

    total: int
    used: int
    free: int


class Leave(Exception):
    """Raised by a test's on_progress."""


def fetch(file: str = "", **arguments: Any) -> Path:
    return hub.fetch_gguf(HubPath(REPO, file), **arguments)


def unplug(monkeypatch: pytest.MonkeyPatch, hub_server: Hub) -> None:
    """From here on nobody listens where the hub was."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    hub_server.requests.clear()


# What a path means


@pytest.mark.parametrize(
    ("path", "repo", "file"),
    [
        ("owner/name", "owner/name", ""),
        ("TheBloke/Llama-2-7B-GGUF", "TheBloke/Llama-2-7B-GGUF", ""),
        ("a_b/c.d-0.6B", "a_b/c.d-0.6B", ""),
        ("owner/name/model.gguf", "owner/name", "model.gguf"),
        ("owner/name/sub/model-*.gguf", "owner/name", "sub/model-*.gguf"),
    ],
)
def test_owner_and_name_are_a_repository(path: str, repo: str, file: str) -> None:
    assert parse(path) == HubPath(repo, file)


@pytest.mark.parametrize(
    "path",
    [
        *("", "name", "model.gguf", "models/model.gguf", "models/model.bin", "/owner/name", "./owner/name"),
        *("../owner/name", "~/owner/name", "owner//name", "owner/name/", "owner/na me", "own--er/name", "a..b/name"),
        *("owner/name/../x.gguf", "owner/name/./x", "owner/name/a\\b", "owner/name/a\0b", "owner/name/a\nb", "-a/b"),
        *("C:\\owner\\name", "https://huggingface.co/owner/name", "hf://owner/name", "owner/name.git", "ö/name"),
        "o" * 97 + "/name",
    ],
)
def test_what_is_no_repository_is_a_path(path: str) -> None:
    assert parse(path) is None


def test_what_is_on_disk_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse("owner/name") is None and parse("owner/name/missing.gguf") is None
    assert parse("owner/other") == HubPath("owner/other")


# Which file it is

SPLIT = {f"big-0000{n}-of-00003.gguf": 2_000_000_000 for n in (1, 2, 3)}


@pytest.mark.parametrize(
    ("files", "pattern", "chosen"),
    [
        ({"a.gguf": 1, "README.md": 1}, "", ["a.gguf"]),
        ({"a.gguf": 1, "mmproj-a.gguf": 1}, "", ["a.gguf"]),
        ({"a.GGUF": 1}, "", ["a.GGUF"]),
        ({"a.gguf": 1, "b.gguf": 1}, "b.gguf", ["b.gguf"]),
        ({"a-Q4.gguf": 1, "a-Q8.gguf": 1}, "*Q4*", ["a-Q4.gguf"]),
        ({"sub/a-Q4.gguf": 1, "a-Q8.gguf": 1}, "a-Q4.gguf", ["sub/a-Q4.gguf"]),
        (SPLIT, "", sorted(SPLIT)),
        (SPLIT | {"small.gguf": 1}, "big*", sorted(SPLIT)),
        (SPLIT | {"small.gguf": 1}, "big-00001-of-00003.gguf", sorted(SPLIT)),
    ],
)
def test_one_model_is_chosen_with_all_of_its_parts(files: dict[str, int], pattern: str, chosen: list[str]) -> None:
    assert choose_gguf(HubPath(REPO, pattern), files) == chosen


@pytest.mark.parametrize(
    ("files", "pattern", "sentence"),
    [
        ({"README.md": 1}, "", "forge/tiny has no .gguf file. Choose a repository that has"),
        ({"a.gguf": 4_100_000_000} | SPLIT, "", r"There are 2 models in forge/tiny: a.gguf \(4.1 GB\), big-00001-of-"),
        ({"a.gguf": 1} | SPLIT, "", r"big-00001-of-00003.gguf \(6.0 GB\). Add the line file: with one of these names"),
        ({"a1.gguf": 1, "a2.gguf": 2, "b.gguf": 3}, "a*", "'a.' matches 2 models in forge/tiny: a1.gguf .*a2.gguf"),
        ({"a.gguf": 1, "b.gguf": 2}, "c.gguf", "forge/tiny has no 'c.gguf'. It has: a.gguf .*, b.gguf"),
        ({f"{n:02}.gguf": 1 for n in range(11)}, "", r"00.gguf .* 07.gguf \(1 bytes\) and 3 more. Add"),
        (dict(list(SPLIT.items())[:2]), "", "forge/tiny has only 2 of the 3 parts of big-00001-of-00003.gguf"),
    ],
)
def test_what_is_not_one_model_is_refused_with_the_choices(files: dict[str, int], pattern: str, sentence: str) -> None:
    with pytest.raises(ModelFileError, match=sentence):
        choose_gguf(HubPath(REPO, pattern), files)


# Fetching


def test_a_file_is_fetched_once_and_where_huggingface_hub_finds_it(
    hub_server: Hub, tiny_in_hub: bytes, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    file = fetch(on_progress=lambda done, total: seen.append((done, total)))
    assert file == tmp_path / "hf" / "hub" / "models--forge--tiny" / "snapshots" / COMMIT / "tiny.gguf"
    assert file.read_bytes() == tiny_in_hub and seen == sorted(seen, key=lambda s: s[0])
    assert {total for _, total in seen} <= {0, len(tiny_in_hub)}
    assert fetch() == file and len(hub_server.asked("GET", "/content")) == 1
    assert len(hub_server.asked("GET", "/forge/tiny/resolve")) == 1  # the README was not asked for
    found = run_python(
        "import sys, huggingface_hub as h; print(h.try_to_load_from_cache(*sys.argv[1:]))", REPO, "tiny.gguf"
    )
    assert found.stdout.strip() == str(file)


def test_a_snapshot_has_the_files_that_match_in_a_cache_of_ones_own(hub_server: Hub, tmp_path: Path) -> None:
    hub_server.files[REPO] = {"config.json": b"{}", "model.safetensors": b"x" * 9, "pytorch_model.bin": b"pickle"}
    hub_server.revisions = ("main", "v1.0")
    allow = ["*.json", "*.safetensors"]
    own = tmp_path / "own"
    folder = hub.fetch(HubPath(REPO), allow=allow, revision="v1.0", cache_dir=own)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert own in folder.parents and (folder.parents[1] / "refs" / "v1.0").read_text("utf-8") == COMMIT
    assert hub.fetch(HubPath(REPO), allow=allow, revision=COMMIT, cache_dir=own) == folder
    sentence = sentence_of(lambda: hub.fetch(HubPath(REPO), allow=["*.onnx"]))
    assert sentence == "forge/tiny has none of the files that this backend reads. Choose another."


def test_all_parts_of_a_split_model_are_fetched_and_the_first_is_loaded(hub_server: Hub) -> None:
    parts = {f"sub/m-0000{n}-of-00002.gguf": bytes([n]) * 1000 for n in (1, 2)}
    hub_server.files[REPO] = parts | {"other.gguf": b"x"}
    first = fetch("m-*")
    assert [(first.parents[1] / name).read_bytes() for name in parts] == list(parts.values())
    assert first.name == "m-00001-of-00002.gguf" and hub.cached_gguf(HubPath(REPO, "sub/m-*")) == first


def test_a_token_is_shown_to_the_hub_and_to_nobody_else(
    hub_server: Hub, tiny_in_hub: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_server.gated = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch().read_bytes() == tiny_in_hub
    assert all("authorization" in headers for headers in hub_server.asked("GET", "/forge"))
    assert not any("authorization" in headers for headers in hub_server.asked("GET", "/content"))


def test_a_download_that_breaks_goes_on_where_it_was(hub_server: Hub, tiny_in_hub: bytes) -> None:
    hub_server.cuts += [1_000_000, 0, 2_000_000]
    assert fetch().read_bytes() == tiny_in_hub
    ranges = [headers.get("range") for headers in hub_server.asked("GET", "/content")]
    assert ranges == [None, "bytes=1000000-", "bytes=1000000-", "bytes=3000000-"]


def test_a_download_that_was_given_up_goes_on_where_it_was(hub_server: Hub, tiny_in_hub: bytes) -> None:
    hub_server.cuts += [2_000_000] + [0] * 6
    assert sentence_of(fetch) == (
        "The download of forge/tiny was interrupted at 2.0 MB of 5.8 MB. Load the model again; it goes on from there."
    )
    assert hub.cached_gguf(HubPath(REPO)) is None
    assert fetch().read_bytes() == tiny_in_hub
    assert hub_server.asked("GET", "/content")[-1]["range"] == "bytes=2000000-"


def test_what_an_earlier_process_left_damaged_is_fetched_anew(hub_server: Hub, tiny_in_hub: bytes) -> None:
    left = partial_of(tiny_in_hub)
    left.write_bytes(bytes(1000))
    assert fetch().read_bytes() == tiny_in_hub and not left.exists()
    assert [headers.get("range") for headers in hub_server.asked("GET", "/content")] == ["bytes=1000-", None]


def test_a_server_that_knows_no_ranges_sends_it_all_again(hub_server: Hub, tiny_in_hub: bytes) -> None:
    hub_server.ranges = False
    hub_server.cuts.append(1_000_000)
    assert fetch().read_bytes() == tiny_in_hub


def test_whoever_leaves_is_heard_while_the_server_is_silent(hub_server: Hub, tiny_in_hub: bytes) -> None:
    hub_server.go_on.clear()

    def leave(done: int, total: int) -> None:
        if hub_server.sending.is_set():
            raise Leave

    with pytest.raises(Leave):
        fetch(on_progress=leave)
    hub_server.go_on.set()
    until(lambda: not any(thread.name == "llamaforge-background" for thread in threading.enumerate()))
    assert fetch().read_bytes() == tiny_in_hub and "range" in hub_server.asked("GET", "/content")[-1]


def test_two_loads_of_one_file_fetch_it_once(hub_server: Hub, tiny_in_hub: bytes) -> None:
    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetch().read_bytes() == tiny_in_hub and len(hub_server.asked("GET", "/content")) == 1


# What goes wrong


def test_a_gated_repository_says_what_to_do(
    hub_server: Hub, tiny_in_hub: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_server.gated = True
    assert sentence_of(fetch) == GATED
    monkeypatch.setenv("HF_TOKEN", "hf_of-somebody-else")
    assert sentence_of(fetch) == GATED


def test_what_the_hub_does_not_have_is_named(hub_server: Hub, tiny_in_hub: bytes) -> None:
    unknown = sentence_of(lambda: hub.fetch_gguf(HubPath("forge/tinny")), ModelFileError)
    assert unknown.startswith("There is no file or folder 'forge/tinny' on this computer, and no such repository on")
    revision = sentence_of(lambda: hub.fetch(HubPath(REPO), allow=["*"], revision="v9"), ModelFileError)
    assert revision == "forge/tiny has no revision 'v9'. Choose another branch, tag or commit."
    assert sentence_of(lambda: fetch("x.gguf")).startswith("forge/tiny has no 'x.gguf'. It has: tiny.gguf (5.8 MB).")
    for wrong in ("../../x", "a b", "-x"):
        assert "is no branch" in sentence_of(lambda w=wrong: hub.fetch(HubPath(REPO), allow=["*"], revision=w))


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (403, "The Hugging Face Hub refuses access to forge/tiny. Check HF_TOKEN, and what that token may read."),
        (429, "The Hugging Face Hub has had too many requests from here. Try again in a few minutes."),
        (503, "The Hugging Face Hub answered with error 503. Try again later."),
    ],
)
def test_an_error_of_the_hub_is_a_sentence(hub_server: Hub, tiny_in_hub: bytes, status: int, sentence: str) -> None:
    hub_server.status = status
    assert sentence_of(fetch) == sentence


def test_a_network_that_asks_for_a_login_is_told_from_the_hub(hub_server: Hub, tiny_in_hub: bytes) -> None:
    hub_server.page = b"<html>Welcome to our hotel</html>"
    assert sentence_of(fetch).startswith("What answers in the Hub's place is not the Hub.")


def test_without_the_hub_what_is_here_is_loaded(
    hub_server: Hub, tiny_in_hub: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = fetch()
    unplug(monkeypatch, hub_server)
    assert fetch() == fetch("*.gguf") == fetch("tiny.gguf") == file
    assert hub.fetch(HubPath(REPO), allow=["*.gguf"]) == file.parent
    assert sentence_of(lambda: fetch("big.gguf")) == (
        "The Hugging Face Hub cannot be reached. Check the internet connection and try again. Already here: tiny.gguf."
    )
    other = sentence_of(lambda: hub.fetch_gguf(HubPath("forge/other")))
    assert other.endswith("and try again. Already here: forge/tiny.")


def test_a_hub_that_fails_does_not_cost_what_is_here(hub_server: Hub, tiny_in_hub: bytes) -> None:
    file = fetch()
    hub_server.status = 503
    assert fetch() == file


def test_whoever_sets_offline_is_heard(hub_server: Hub, tiny_in_hub: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert sentence_of(fetch) == "HF_HUB_OFFLINE is set, so forge/tiny cannot be fetched."
    monkeypatch.delenv("HF_HUB_OFFLINE")
    file = fetch()
    hub_server.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch() == file and hub_server.requests == []


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    hub_server: Hub, tiny_in_hub: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, 4_000_000))
    assert sentence_of(fetch).startswith("The disk is full: this model needs 5.8 MB, 4.0 MB are free. ")
    assert hub_server.asked("GET", "/content") == []
    partial_of(tiny_in_hub).write_bytes(tiny_in_hub[:3_000_000])
    assert fetch().read_bytes() == tiny_in_hub  # with what is here already it fits


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_disk_that_fills_up_meanwhile_is_a_sentence(hub_server: Hub, tiny_in_hub: bytes) -> None:
    partial = partial_of(tiny_in_hub)
    partial.symlink_to("/dev/full")
    assert sentence_of(fetch) == (
        "The disk is full: the download of forge/tiny stopped at 0 bytes of 5.8 MB. "
        "Load the model again; it goes on from there."
    )
    partial.unlink()
    assert fetch().read_bytes() == tiny_in_hub


def test_a_cache_that_cannot_be_written_is_a_sentence(hub_server: Hub, tiny_in_hub: bytes, tmp_path: Path) -> None:
    (tmp_path / "hf").write_text("a file")
    reason = os.strerror(errno.ENOTDIR)
    assert sentence_of(fetch) == f"The download of forge/tiny cannot be saved: {reason}. Check HF_HOME."


def test_a_missing_package_is_told_with_the_install_line() -> None:
    script = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "huggingface_hub" else real(name, *rest)
from llamaforge import BackendMissing, hub
from llamaforge.backends.llama_cpp import LlamaCppBackend
for act in (lambda: hub.fetch_gguf(hub.HubPath("a/b")), lambda: LlamaCppBackend().check("a/b", {})):
    try:
        act()
    except BackendMissing as error:
        print(error)
assert "huggingface_hub" not in sys.modules
"""
    done = run_python(script)
    line = 'pip install "huggingface_hub==2.4.0"'
    assert [text.rpartition(": ")[2] for text in done.stdout.splitlines()] == [line, line], done.stderr
