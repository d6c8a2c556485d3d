"""What the tests of files of the Hugging Face Hub share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hub_stand_in import TOKEN, sha256

from llamaforge import ModelError, hub

REPO = "forge/tiny"


def sentence_of(act: Callable[[], object], kind: type[ModelError] = ModelError) -> str:
    """Return the sentence of an error, after a look at what must never be in one."""
    with pytest.raises(kind) as caught:
        act()
    for secret in (TOKEN, "127.0.0.1", "localhost", "signature", "://", str(Path.home())):
        assert secret not in str(caught.value) + caught.value.details
    return str(caught.value)


def partial_of(content: bytes) -> Path:
    blobs = hub.repo_folder(REPO) / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    return blobs / f"{sha256(content)}.llamaforge.incomplete"
