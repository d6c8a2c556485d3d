"""The packages that each part of LlamaForge needs, and the least versions that it works with safely.

pyproject.toml asks pip for the same; a test compares them. What is not installed has an exact line to install it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import Requirement
from packaging.version import Version

LEAST = {"gradio": "6.31", "llama-cpp-python": "0.3.36", "transformers": "5.3", "torch": "2.6", "openai": "2"}
COMPILED = "llama-cpp-python"
EXTRAS = {
    "llama-cpp": ("llama-cpp-python>=0.3.36,<0.4", "jinja2>=3.1.6", "huggingface_hub>=2.4,<3", "pillow>=11"),
    "huggingface": (
        "transformers>=5.3,<6",
        "torch>=2.6",
        "safetensors>=0.5",
        "accelerate>=1.10",
        "huggingface_hub>=2.4,<3",
        "pillow>=11",
    ),
    "openai": ("openai>=2,<4", "httpx>=0.27"),
    "ui": ("gradio>=6.31,<7", "limits>=5", "pillow>=11", "xkcdpass>=1.20"),
    "cli": ("typer>=0.20,<1",),
}


def outdated(package: str) -> str | None:
    """Return a sentence with what to install where an installed package is too old, else None."""
    installed = installed_version(package)
    if installed is None or Version(installed) >= Version(LEAST[package]):
        return None
    return f"{package} {installed} is too old. Update it: pip install -U '{package}>={LEAST[package]}'"


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def missing(extra: str) -> list[Requirement]:
    """Return what an extra ("llama-cpp") needs and is not installed, or in a version that it does not work with."""
    needed = map(Requirement, EXTRAS[extra])
    return [one for one in needed if not one.specifier.contains(installed_version(one.name) or "0", prereleases=True)]


def install_line(extra: str, *, options: Sequence[str] = (), cmake: str = "", again: bool = False) -> str:
    """Return the line for a shell that installs what is missing of an extra into this very Python.

    Args:
        options: more options of pip.
        cmake: a flag that llama.cpp is built with ("GGML_CUDA").
        again: compile llama-cpp-python anew, although it is installed.
    """
    needed = map(Requirement, EXTRAS[extra]) if again else missing(extra)
    names = [_asked(one) for one in needed if not again or one.name == COMPILED]
    renewed = ("--force-reinstall", "--no-cache-dir") if again else ()
    line = shlex.join([sys.executable, "-m", "pip", "install", *renewed, *options, *names])
    return f'CMAKE_ARGS="-D{cmake}=on" {line}' if cmake else line


def _asked(package: Requirement) -> str:
    # What is compiled is the version that was tried here.
    return f"{package.name}=={LEAST[package.name]}" if package.name == COMPILED else str(package)
