"""The code blocks of README and docs/: where each stands, its language, and why it is not run where it is not.

A reason stands right above the block, where a reader of the page does not see it: `<!-- not run: it needs a GPU -->`.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scripted import ROOT

BLOCK = re.compile(
    r"^(?:[ ]*<!--[ ]not[ ]run:[ ](?P<reason>\S[^\n]*?)[ ]-->\n)?"
    r"(?P<indent>[ ]*)(?P<fence>```+|~~~+)(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)
FILE = re.compile(r"# (configs/[\w/.-]+\.(?:py|yaml))\b")
PAGES = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")))


@dataclass(frozen=True, slots=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    reason: str = ""

    @property
    def file(self) -> str:
        """The file of a config folder that it shows, by the name in its first line; empty where it shows none."""
        return name[1] if (name := FILE.match(self.text)) else ""


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / page).read_text("utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("fence")) + 1,
            found["language"].strip(),
            textwrap.dedent(found["text"]),
            found["reason"] or "",
        )
        for found in BLOCK.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def to_run(language: str) -> list[Any]:
    found = [block for block in BLOCKS if block.language == language and not block.reason]
    return [pytest.param(block, id=f"{block.page}:{block.line}") for block in found]


def write_files(page: str, folder: Path, *, last: Block | None = None) -> None:
    """Write every file of a config folder that a page shows; `last` stands where a page shows a file twice."""
    for block in [*blocks_of(page), *([last] if last else [])]:
        if block.file and not block.reason:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text, "utf-8")
