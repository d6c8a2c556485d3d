"""The watch over every test run: a secret of the environment that comes out anywhere fails it, and is not repeated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from canary_kit import CANARIES, files_with_canaries
from scripted import ROOT

LEAK = {
    "file": "def test(tmp_path): (tmp_path / 'left.txt').write_text(f'it is {SECRET}')",
    "output": "def test(): look_at(f'said {SECRET}', 'output of a program')",
}
PLACES = {"file": "left.txt", "output": "output of a program"}


def test_every_process_of_the_tests_inherits_the_secrets() -> None:
    script = "import os; print(*(value for name, value in os.environ.items() if name.startswith('SESSION_CANARY')))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert sorted(said.split()) == sorted(CANARIES.values())


@pytest.mark.parametrize("leak", LEAK)
def test_a_run_in_which_a_secret_came_out_fails_and_names_the_place(tmp_path: Path, leak: str) -> None:
    start = "from canary_kit import CANARIES, look_at\nSECRET = CANARIES['SESSION_CANARY_TOKEN']\n"
    (tmp_path / "test_leak.py").write_text(start + LEAK[leak], "utf-8")
    (tmp_path / "conftest.py").write_text("from tests.conftest import *", "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'temp'}", "."]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "1 passed" in done.stdout
    assert "A secret of the environment came out: " in done.stdout and PLACES[leak] in done.stdout
    assert not [value for value in CANARIES.values() if value in done.stdout + done.stderr]
    for left in files_with_canaries(tmp_path):
        Path(left).unlink()
