"""Every code block of README and docs/ runs as it is written, but for path, address and device, or says why not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from doc_blocks import BLOCKS, PAGES, Block, to_run, write_files
from scripted import ROOT, run_python
from test_openai_server import llama_server  # noqa: F401 - a fixture
from tiny_gguf import DEFAULT_ANSWER
from tiny_hf import write_tiny_hf

from guide.texts import read_texts
from llamaforge import LlamaForge

ADDRESS = "http://127.0.0.1:8080/v1"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture
def registered(tmp_path: Path, tiny_gguf: Path) -> None:
    """The models that README names are registered in the folder where a block runs."""
    forge = LlamaForge(tmp_path / "configs")
    for name in ("llama-2-7b", "llama-3-8b", "llama-3-8b-q8"):
        forge.add_model(name, str(tiny_gguf), "llama.cpp", {"n_threads": 1})
    forge.config.save()


def test_every_block_is_of_a_kind_that_is_run_or_says_why_it_is_not() -> None:
    assert len(BLOCKS) > 30
    unmarked = [f"{block.page}:{block.line}" for block in BLOCKS if not block.reason and not is_run(block)]
    assert unmarked == []


def test_every_fence_of_a_page_is_one_that_is_seen_here() -> None:
    for page in PAGES:
        seen = sum(block.page == page for block in BLOCKS)
        assert len(re.findall(r"^[ >]*(?:```|~~~)", read(page), re.MULTILINE)) == 2 * seen, page


def test_every_reason_stands_above_a_block() -> None:
    assert sum(read(page).count("<!-- not run:") for page in PAGES) == sum(bool(block.reason) for block in BLOCKS)


def read(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def is_run(block: Block) -> bool:
    return block.language in ("python", "sh", "toml") or block.language == "yaml" and bool(block.file)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("block", to_run("python"))
def test_python_runs(
    tmp_path: Path, tiny_gguf: Path, request: pytest.FixtureRequest, canary: None, block: Block
) -> None:
    script = block.text.replace("/path/to/llama-2-7b.gguf", str(tiny_gguf)).replace('"cuda"', '"cpu"')
    if "/path/to/hf-model" in script:
        script = script.replace("/path/to/hf-model", str(write_tiny_hf(tmp_path / "hf-model")))
    if ADDRESS in script:
        script = script.replace(ADDRESS, request.getfixturevalue("llama_server"))
    (tmp_path / "guide").symlink_to(ROOT / "guide")
    done = run_python(script, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = read_texts().topics["temperature"].answer if "guide/model" in script else DEFAULT_ANSWER
    assert ("print(" in script) == (done.stdout.strip() == answer)


@pytest.mark.parametrize("block", to_run("yaml"))
def test_a_file_of_the_config_folder_is_right(tmp_path: Path, block: Block) -> None:
    write_files(block.page, tmp_path, last=block)
    script = """
from llamaforge import LlamaForge

config = LlamaForge("configs").config
read = [config.settings, *config.models.values(), *config.presets.values()]
problems = [*config.plugin_problems.values(), *(one.problem for one in read if one.problem)]
assert not problems, problems
print("configs/settings.yaml")
print(*(f"configs/models/{name}.yaml" for name in config.models), sep="\\n")
print(*(f"configs/presets/{name}.yaml" for name in config.presets), sep="\\n")
"""
    done = run_python(script, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert block.file in done.stdout.splitlines()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("block", to_run("sh"))
def test_commands_run(tmp_path: Path, block: Block) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LLAMAFORGE_DATA": str(tmp_path)}
    for command in block.text.splitlines():
        script = f'python() {{ "{sys.executable}" "$@"; }}\n{command}'
        done = subprocess.run(
            ["bash", "-c", script], input="Hello", cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        fine = (0, 1) if " doctor " in command else (0,)  # what is missing is this machine's affair
        assert done.returncode in fine, f"{command}: {done.stdout}{done.stderr}"
        answer = re.search(r"> (\S+\.txt)$", command)
        assert not answer or (tmp_path / answer[1]).read_text("utf-8") == f"{DEFAULT_ANSWER}\n"


@pytest.mark.parametrize("block", to_run("toml"))
def test_an_entry_point_names_something_that_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: Block
) -> None:
    write_files(block.page, tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "configs" / "plugins")
    for example in (ROOT / "examples").glob("*/pyproject.toml"):
        monkeypatch.syspath_prepend(example.parent)
    groups = tomllib.loads(block.text)["project"]["entry-points"]
    assert groups.keys() <= {"llamaforge.backends", "llamaforge.plugins"}
    for group, points in groups.items():
        for name, place in points.items():
            assert isinstance(EntryPoint(name, place, group).load(), type)


def test_what_is_not_run_installs_what_there_is() -> None:
    wanted = (ROOT / "requirements.txt").read_text("utf-8")
    for page in PAGES:
        extras = re.findall(r'"?\.\[([\w-]+)\]"', read(page))
        assert set(extras) <= PROJECT["optional-dependencies"].keys(), page
        pins = re.findall(r"\b(?:llama-cpp-python|torch|transformers)==[\d.]*\d", read(page))
        assert [pin for pin in pins if f"{pin}\n" not in wanted] == [], page


def test_the_flags_of_the_pages_are_options_of_the_installed_llama_cpp() -> None:
    import llama_cpp  # here: only this test needs it

    options = (Path(llama_cpp.__file__).parents[1] / "lib" / "cmake" / "ggml" / "ggml-config.cmake").read_text("utf-8")
    flags = {flag for page in PAGES for flag in re.findall(r"-D(GGML_\w+)=", read(page))}
    assert {"GGML_CUDA", "GGML_METAL", "GGML_HIP", "GGML_VULKAN"} <= flags
    assert [flag for flag in sorted(flags) if f'set({flag} "' not in options] == []
