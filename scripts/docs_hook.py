"""What the documentation site does beside MkDocs: README is its first page, and what is not a page is no link."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)*(?:examples/[^)]*|LICENSE)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add README as the first page, its links as seen from docs/."""
    text = (ROOT / "README.md").read_text("utf-8").split("---\n", 2)[2]
    files.append(File.generated(config, "index.md", content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave the words alone of a link to a file of the checkout that is no page."""
    return OUTSIDE.sub(r"\1", markdown)
