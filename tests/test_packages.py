"""Packages that are too old are told, and pip is asked for the same versions."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from scripted import ROOT, claim_version

from llamaforge.packages import EXTRAS, LEAST, install_line, missing, outdated


def test_what_is_installed_here_is_new_enough() -> None:
    assert [package for package in LEAST if outdated(package)] == []


def test_a_package_that_is_not_installed_is_not_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEAST, "no-such-package", "1")
    assert outdated("no-such-package") is None


def test_a_package_that_is_too_old_is_told_with_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_version(tmp_path, "gradio", "5.49.1")
    monkeypatch.syspath_prepend(tmp_path)
    assert outdated("gradio") == "gradio 5.49.1 is too old. Update it: pip install -U 'gradio>=6.31'"


def test_pip_is_asked_for_the_same_packages_and_versions() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert {name: tuple(extras[name]) for name in EXTRAS} == EXTRAS and {*extras} - {*EXTRAS} == {"all"}
    asked = [Requirement(line) for lines in EXTRAS.values() for line in lines]
    floors = {one.name: next(s.version for s in one.specifier if s.operator == ">=") for one in asked}
    assert {package: floors[package] for package in LEAST} == LEAST


def test_nothing_is_missing_here() -> None:
    assert [extra for extra in EXTRAS if missing(extra)] == []


def test_the_install_line_asks_this_python_for_what_is_missing_or_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/a folder/python")
    monkeypatch.setitem(EXTRAS, "openai", ("openai>=2,<4", "no-such-package>=1"))
    claim_version(tmp_path, "openai", "1.40")
    monkeypatch.syspath_prepend(tmp_path)
    assert install_line("openai") == "'/a folder/python' -m pip install 'openai<4,>=2' 'no-such-package>=1'"


def test_what_is_compiled_is_the_version_that_was_tried() -> None:
    line = install_line("llama-cpp", cmake="GGML_CUDA", again=True)
    assert line.startswith('CMAKE_ARGS="-DGGML_CUDA=on" ')
    assert line.endswith(" -m pip install --force-reinstall --no-cache-dir llama-cpp-python==0.3.36")
