"""The least version of each package that LlamaForge works with safely; pyproject.toml asks pip for the same."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

LEAST = {"gradio": "6.31", "llama-cpp-python": "0.3.36", "transformers": "5.3", "torch": "2.6", "openai": "2"}


def outdated(package: str) -> str | None:
    """Return a sentence with what to install where an installed package is too old, else None."""
    try:
        installed = version(package)
    except PackageNotFoundError:
        return None
    if Version(installed) >= Version(LEAST[package]):
        return None
    return f"{package} {installed} is too old. Update it: pip install -U '{package}>={LEAST[package]}'"
