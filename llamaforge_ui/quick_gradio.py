"""Imports Gradio without what costs half of its time and a quarter of its memory, and what this page never uses.

At each import Gradio parses its own sources, once for every component, to write type stubs for editors beside them. It
leaves out a class whose file cannot be told (component_meta.create_or_modify_pyi), so none can for that long. And it
imports pandas for the tables of others, and for figures of all events so far, which it makes anew after each event and
which this page shows nobody: here none are made, and pandas is imported once somebody uses it.

None of this is promised by Gradio. Where a later one takes it amiss, it is imported as usual.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType
from typing import Any


def import_gradio() -> None:
    """Import Gradio, unless it is imported already."""
    if "gradio" in sys.modules:
        return
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(sys.maxsize)  # events until the figures are made anew
    with contextlib.suppress(OSError), _no_stubs(), _late("pandas"):
        import gradio
    import gradio

    # Around each event it would import matplotlib, where that is installed, for plots that this page does not have.
    if hasattr(gradio, "utils"):
        gradio.utils.MatplotlibBackendMananger = contextlib.nullcontext  # type: ignore[assignment, misc]


@contextlib.contextmanager
def _no_stubs() -> Iterator[None]:
    getfile = inspect.getfile

    def of_others(object: Any) -> str:
        if isinstance(object, type) and object.__module__.startswith("gradio."):
            raise OSError("No type stubs are to be written.")
        return getfile(object)

    inspect.getfile = of_others
    try:
        yield
    finally:
        inspect.getfile = getfile


@contextlib.contextmanager
def _late(name: str) -> Iterator[None]:
    """Let what imports a module have one that is read once an attribute of it is asked for."""
    finder = _LateFinder(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _LateFinder(MetaPathFinder):
    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == self._name else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec
