"""The documentation site builds without a warning, holds every public name once, and needs no other host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripted import ROOT

import llamaforge

LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//|<link\b[^>]*\bhref=["']?https?://"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def pages(site: Path) -> dict[str, str]:
    return {str(file.relative_to(site)): file.read_text("utf-8") for file in site.rglob("*.html")}


def test_the_site_has_a_page_of_every_page_of_docs(site: Path) -> None:
    expected = {str(file.relative_to(ROOT / "docs").with_suffix(".html")) for file in (ROOT / "docs").rglob("*.md")}
    assert expected | {"index.html", "404.html"} == set(pages(site))


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    assert {name: found[0] for name, text in pages(site).items() if (found := LOADED.search(text))} == {}
    sheets = [file.read_text("utf-8") for file in site.rglob("*.css")]
    assert sheets and not [text for text in sheets if re.search(r"(@import|url\()[\s\"']*(https?:)?//", text)]


def test_every_public_name_is_described_on_one_page(site: Path) -> None:
    named = [name for file in sorted((ROOT / "docs" / "api").glob("*.md")) for name in names_on(file)]
    assert sorted(named) == sorted(llamaforge.__all__)
    texts = "".join(text for name, text in pages(site).items() if name.startswith("api/"))
    assert [name for name in named if f'id="llamaforge.{name}"' not in texts] == []


def names_on(page: Path) -> list[str]:
    return re.findall(r"^::: llamaforge\.(\w+)$", page.read_text("utf-8"), re.MULTILINE)
