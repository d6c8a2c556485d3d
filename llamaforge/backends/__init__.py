"""The registry of backends: a name, and a class or where to find one."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from importlib.metadata import entry_points

from ..errors import BackendError, BackendMissing
from .base import BaseBackend
from .parameters import Parameters, unknown_name

_registry: dict[str, type[BaseBackend] | str] = {}


def register_backend(name: str, backend: type[BaseBackend] | str, *, overwrite: bool = False) -> None:
    """Make a backend known by a name.

    Args:
        backend: a class, or "module:Class", which is imported when it is first used.

    Raises:
        BackendError: the name is taken (pass `overwrite=True`), or what is given is no backend.
    """
    if isinstance(backend, str):
        if backend.count(":") != 1:
            raise BackendError(f"Backend {name!r} must be given as 'module:Class', found {backend!r}.")
    else:
        _require_backend_class(name, backend)
    if name in _registry and not overwrite and not _same(_registry[name], backend):
        raise BackendError(f"Backend {name!r} is already registered. Use overwrite=True to replace it.")
    _registry[name] = backend


def _same(old: type[BaseBackend] | str, new: type[BaseBackend] | str) -> bool:
    """A script or a notebook cell that runs twice defines its class anew: that is the same backend."""
    if isinstance(old, str) or isinstance(new, str):
        return old == new
    return (old.__module__, old.__qualname__) == (new.__module__, new.__qualname__)


def get_backend(name: str) -> type[BaseBackend]:
    """Return the class of a backend, importing it when it is first used.

    Raises:
        BackendError: the name is unknown, or its module cannot be imported.
    """
    if name not in backend_names():
        raise BackendError(unknown_name("backend", name, backend_names()))
    backend = _registry[name]
    return _import_backend(name, backend) if isinstance(backend, str) else backend


def backend_place(name: str) -> str | None:
    """Return the "module:Class" that a backend was registered by, so that a child process can import it too."""
    backend = _registry.get(name)
    return backend if isinstance(backend, str) else None


def backend_names() -> list[str]:
    """Return the names of all registered backends, built-in ones first; installed packages may bring some."""
    for name, place in _installed():
        _registry.setdefault(name, place)
    return list(_registry)


def schemas() -> Iterator[type[Parameters]]:
    """Yield the parameters of every backend; one that cannot be imported is reported where a model names it."""
    for name in backend_names():
        with contextlib.suppress(BackendError):
            yield get_backend(name).Parameters


@functools.cache
def _installed() -> tuple[tuple[str, str], ...]:
    """Return the backends of installed packages: entry points of the group "llamaforge.backends"."""
    return tuple((point.name, point.value) for point in entry_points(group="llamaforge.backends"))


def _import_backend(name: str, place: str) -> type[BaseBackend]:
    module_name, class_name = place.split(":")
    try:
        backend = getattr(importlib.import_module(module_name), class_name)
    # A user's module may fail in any way, sys.exit() included; it must not take the others down.
    except (Exception, SystemExit) as failure:
        if isinstance(failure, ModuleNotFoundError) and place.startswith("llamaforge.") and failure.name:
            raise BackendMissing(
                f"Backend {name!r} needs the package {failure.name}, which is not installed. "
                f"Install it and start again: pip install {failure.name.partition('.')[0]}"
            ) from failure
        raise BackendError(
            f"Backend {name!r} cannot be imported from {place!r}: {type(failure).__name__}: {failure}"
        ) from failure
    _require_backend_class(name, backend)
    assert isinstance(backend, type)
    return backend


def _require_backend_class(name: str, backend: object) -> None:
    if not (isinstance(backend, type) and issubclass(backend, BaseBackend)):
        raise BackendError(f"Backend {name!r} must be a class that extends BaseBackend, found {backend!r}.")
    methods = ("load_model", "generate_stream", "is_model_loaded")
    missing = [f"{method}()" for method in methods if getattr(backend, method) is getattr(BaseBackend, method)]
    if missing:
        raise BackendError(f"Backend {name!r} lacks {', '.join(missing)}.")


register_backend("llama.cpp", "llamaforge.backends.llama_cpp:LlamaCppBackend")
register_backend("huggingface", "llamaforge.backends.huggingface:HuggingFaceBackend")
register_backend("openai", "llamaforge.backends.openai:OpenAIBackend")
register_backend("echo", "llamaforge.backends.echo:EchoBackend")
