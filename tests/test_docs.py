"""What the documents promise is there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio.routes import App
from scripted import ROOT

from llamaforge import LlamaForge
from llamaforge_ui import Access, build_pages
from llamaforge_ui.gate import ROUTES

CASES = {
    "CFG": "01 02 05 08 10 11 13 14 16 17 19 20 22 23 25 26 28 29 32 33 34 35 37",
    "MOD": "01 02 04 05 07 08 10 11 13 14 16 17 19 20 22 23 25 26 28 29",
    "GEN": "01 02 04 05 07 08 10 11 13 14 16 17 19 20 22 23 25 26",
    "STR": "01 02 04 05 07 08 10 11 13 14 16 17 18 20",
    "API": "01 02 04 05 07 08 10 11 13 16 17 19 20 21 22 23 25",
    "LIF": "01 02 04 05 07 08 10 11 12 13 14 17",
    "ACC": "01 02 04 05 07 08 10 13 14 16 17 19 20",
}


def rows_of_reliability() -> list[list[str]]:
    lines = (ROOT / "docs" / "reliability.md").read_text("utf-8").splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| [A-Z]{3}-\d\d", line)
    ]


def routes_of_security() -> list[tuple[str, str, set[str]]]:
    """Return the table of open routes: method, path, and the roles that it names."""
    text = (ROOT / "docs" / "security.md").read_text("utf-8")
    rows = re.findall(r"^\| `(GET|POST) (/\S*)` \| .* \| (yes|no) \| (yes|no) \|$", text, re.MULTILINE)
    yes = [(method, path, {"guest": guest, "owner": owner}) for method, path, guest, owner in rows]
    return [(method, path, {role for role in said if said[role] == "yes"}) for method, path, said in yes]


def open_to(method: str, path: str) -> set[str]:
    return {role for role, routes in ROUTES.items() if method in routes and routes[method].fullmatch(path)}


def served_by_gradio(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Return method and path of every route, with what its calls would hold in place of its parameters."""
    for route in routes:
        if inner := getattr(route, "original_router", None):
            yield from served_by_gradio(inner.routes)
        for method in getattr(route, "methods", None) or ():
            for value in ("a1", "chat", "predict"):
                yield method, re.sub(r"\{[^}]*\}", value, route.path)


def test_security_says_of_every_route_to_whom_it_is_open() -> None:
    for method, path, roles in routes_of_security():
        assert open_to(method, path.replace("…", "a1")) == roles, path


@pytest.mark.filterwarnings("ignore:unclosed (event loop|<socket):ResourceWarning")
def test_security_lists_every_route_of_gradios_that_is_open(tmp_path: Path, no_leftovers: None) -> None:
    told = {(method, re.escape(path).replace("…", ".+")) for method, path, _ in routes_of_security()}
    served = set(served_by_gradio(App.create_app(build_pages(LlamaForge(tmp_path), Access(public=True)).front).routes))
    found = {(method, path) for method, path in served if open_to(method, path)}
    assert len(found) > 20
    for method, path in found:
        assert any(method == known and re.fullmatch(f"{said}/?", path) for known, said in told), path


def test_the_page_of_the_space_shows_the_files_as_they_are() -> None:
    page = re.sub(r"^  ", "", (ROOT / "docs" / "space.md").read_text("utf-8"), flags=re.MULTILINE)
    settings = (ROOT / "README.md").read_text("utf-8").split("---\n")[1]
    for text in (f"---\n{settings}---\n", (ROOT / "packages.txt").read_text("utf-8")):
        assert f"```text\n{text}```" in page


def test_the_tables_are_what_the_schemas_and_the_page_say() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "parameters_page"), "--check"]
    assert subprocess.run(command, capture_output=True, text=True).stderr == ""


def test_reliability_lists_every_case_once() -> None:
    expected = [f"{group}-{number}" for group, numbers in CASES.items() for number in numbers.split()]
    assert [row[0].split()[0] for row in rows_of_reliability()] == expected


def test_reliability_says_of_every_case_what_proves_it_or_that_it_is_open() -> None:
    for case, tried, _seen, proof in rows_of_reliability():
        assert tried and ("::test_" in proof or re.match(r"open: issue \d", proof)), case


def test_reliability_names_tests_that_exist() -> None:
    named = {
        name for row in rows_of_reliability() for name in re.findall(r"`([\w/]+\.py)::(test_\w+)`", " ".join(row))
    }
    assert len(named) > 100
    missing = []
    for file, test in sorted(named):
        path = ROOT / "tests" / file
        if not (path.is_file() and re.search(rf"^(async )?def {test}\(", path.read_text("utf-8"), re.MULTILINE)):
            missing.append(f"{file}::{test}")
    assert missing == []
