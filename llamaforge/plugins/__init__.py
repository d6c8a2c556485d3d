"""The registry of plugins: a name, and a class or where to find one.

A plugin has all the rights of the person who starts LlamaForge; nothing here is a sandbox. What is isolated is its
failure: it is told, and the chat goes on without it.
"""

from __future__ import annotations

import functools
import importlib
import re
from importlib.metadata import entry_points

from ..backends.parameters import Parameters, unknown_name
from ..errors import PluginError
from . import aside
from .aside import begun, ended
from .base import PLUGIN_API, Plugin

SHIPPED = ("trimmer", "template")  # ours, which a model may have without a word in settings.yaml
RESERVED = ("name", "enabled")  # what stands beside a plugin's settings in YAML
NAME = re.compile(r"[A-Za-z][\w-]*")

_registry: dict[str, type[Plugin] | str] = {}


def register_plugin(name: str, plugin: type[Plugin] | str, *, overwrite: bool = False) -> None:
    """Make a plugin known by a name; it does nothing before settings.yaml names it.

    Args:
        plugin: a class, or "module:Class", which is imported when it is first used.

    Raises:
        PluginError: the name is taken (pass `overwrite=True`), or what is given is no plugin of this version.
    """
    if not NAME.fullmatch(name):
        raise PluginError(f"{name!r} cannot be a plugin's name: take letters, digits, '-' and '_'.")
    if isinstance(plugin, str):
        if plugin.count(":") != 1:
            raise PluginError(f"Plugin {name!r} must be given as 'module:Class', found {plugin!r}.")
    else:
        _require_plugin_class(name, plugin)
    if name in _registry and not overwrite and _place(_registry[name]) != _place(plugin):
        raise PluginError(f"Plugin {name!r} is already registered. Use overwrite=True to replace it.")
    _registry[name] = plugin


def _place(plugin: type[Plugin] | str) -> str:
    """Return "module:Class": a script or a notebook cell that runs twice defines the same plugin anew."""
    return plugin if isinstance(plugin, str) else f"{plugin.__module__}:{plugin.__qualname__}"


def plugin_names() -> list[str]:
    """Return the names of all registered plugins, shipped ones first; those of installed packages are not imported."""
    for name, place in _installed():
        _registry.setdefault(name, place)
    return list(_registry)


def get_plugin(name: str) -> type[Plugin]:
    """Return the class of a plugin, importing it when it is first used.

    Raises:
        PluginError: the name is unknown, its module cannot be imported, or was written for another version.
    """
    if name not in plugin_names():
        raise PluginError(unknown_name("plugin", name, plugin_names()))
    plugin = _registry[name]
    return _import_plugin(name, plugin) if isinstance(plugin, str) else plugin


def plugins_of_module(module: str) -> list[str]:
    """Return the names of the plugins whose classes stand in a module or a package."""
    places = {name: _place(plugin).split(":")[0] for name, plugin in _registry.items()}
    return [name for name, place in places.items() if place == module or place.startswith(f"{module}.")]


@functools.cache
def _installed() -> tuple[tuple[str, str], ...]:
    """Return the plugins of installed packages: entry points of the group "llamaforge.plugins"."""
    return tuple((point.name, point.value) for point in entry_points(group="llamaforge.plugins"))


def _import_plugin(name: str, place: str) -> type[Plugin]:
    module_name, class_name = place.split(":")
    importing = begun(lambda: getattr(importlib.import_module(module_name), class_name))
    if not ended(importing, aside.IMPORT_SECONDS):
        raise PluginError(f"Plugin {name!r} is broken: its import does not end.")
    try:
        plugin = importing.result()
    # A user's module may fail in any way, and did so in a thread of its own; it must not take the others down.
    except BaseException as failure:
        text = f"Plugin {name!r} cannot be imported from {place!r}: {type(failure).__name__}: {failure}"
        raise PluginError(text) from failure
    _require_plugin_class(name, plugin)
    return plugin  # type: ignore[no-any-return]


def _require_plugin_class(name: str, plugin: object) -> None:
    if not (isinstance(plugin, type) and issubclass(plugin, Plugin)):
        raise PluginError(f"Plugin {name!r} must be a class that extends llamaforge.Plugin, found {plugin!r}.")
    if plugin.api != PLUGIN_API:
        raise PluginError(
            f"Plugin {name!r} says api = {plugin.api}, and this LlamaForge has version {PLUGIN_API} of the interface. "
            "Take a version of the plugin that fits."
        )
    if not (isinstance(plugin.Settings, type) and issubclass(plugin.Settings, Parameters)):
        raise PluginError(f"The Settings of plugin {name!r} must be a class that extends llamaforge.Parameters.")
    if not (isinstance(plugin.seconds, (int, float)) and plugin.seconds > 0 and isinstance(plugin.about, str)):
        raise PluginError(f"Plugin {name!r} must have a text as `about`, and as `seconds` a number above 0.")
    if taken := [word for word in RESERVED if word in plugin.Settings.model_fields]:
        raise PluginError(f"Plugin {name!r} may have no setting {taken[0]!r}: YAML uses that word itself.")


register_plugin("trimmer", "llamaforge.plugins.trimmer:Trimmer")
register_plugin("template", "llamaforge.plugins.template:Template")
