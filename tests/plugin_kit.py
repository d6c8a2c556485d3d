"""Plugins for tests, and how settings.yaml comes to name them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from llamaforge import Chunk, LlamaForge, Message, Parameters, Plugin, register_plugin

EXAMPLE = Path(__file__).parent.parent / "examples" / "llamaforge-plugin-redactor"


def install_example(site: Path) -> None:
    """Install the example's package into a folder of packages, as pip does, without a network."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(EXAMPLE, Path(folder) / "redactor")  # a build writes beside the source
        flags = ("--no-index", "--no-build-isolation", "--no-deps", "--target", str(site))
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *flags, str(copy)],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr


class Shout(Plugin):
    """Writes in capitals what it is given to write."""

    api = 1

    class Settings(Parameters):
        end: str = Field(default="!", description="What stands at the end.", max_length=10)

    def before(self, messages: list[Message]) -> list[Message]:
        self.note("It gets loud.")
        return [*messages[:-1], Message(messages[-1].role, messages[-1].content + self.settings.end)]

    def after(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            yield Chunk(chunk.text.upper(), chunk.reasoning.upper())


class Broken(Plugin):
    api = 1


def broken(**hooks: Any) -> type[Plugin]:
    return type("Broken", (Broken,), hooks)


def name_in_settings(forge: LlamaForge, *entries: str) -> None:
    """Let settings.yaml name plugins, and read it."""
    forge.config.folder.mkdir(parents=True, exist_ok=True)
    (forge.config.folder / "settings.yaml").write_text(f"plugins: [{', '.join(entries)}]\n", "utf-8")
    forge.config.reload()


def use(forge: LlamaForge, plugin: type[Plugin], name: str = "mine", settings: str = "") -> None:
    register_plugin(name, plugin)
    name_in_settings(forge, f"{{name: {name}{settings}}}")
    assert not forge.config.plugin_problems


def failures(notes: Any) -> list[str]:
    return [note.text for note in notes if note.failed]
