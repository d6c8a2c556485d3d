"""Packages that are too old are told, and pip is asked for the same versions."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from scripted import ROOT, claim_version

from llamaforge.packages import LEAST, outdated


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


def test_pip_is_asked_for_the_same_versions() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    asked = [Requirement(line) for lines in extras.values() for line in lines]
    floors = {one.name: next(s.version for s in one.specifier if s.operator == ">=") for one in asked if one.specifier}
    assert {package: floors[package] for package in LEAST} == LEAST
