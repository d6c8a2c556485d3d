"""What the documents promise is there."""

from __future__ import annotations

import re
import subprocess
import sys

from scripted import ROOT

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


def test_the_page_of_parameters_is_what_the_schemas_say() -> None:
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
