"""Finding what settings.yaml names under `plugins:`: plugins by name, and modules that bring plugins or backends."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..backends.parameters import unknown_name, validate
from ..errors import LlamaForgeError, ParameterError, PluginError
from ..yaml_file import YamlFile
from . import RESERVED, aside, get_plugin, plugin_names, plugins_of_module
from .aside import begun, ended

MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, slots=True)
class PluginEntry:
    """What settings.yaml says of one plugin; `place` is its place in the list, "0" the first."""

    name: str
    enabled: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    place: str = "0"


def entries_of(file: YamlFile) -> list[PluginEntry]:
    """Return the entries of `plugins:` in settings.yaml: names, or mappings with a name and settings.

    Raises:
        ConfigError: it is something else.
    """
    value = file.data.get("plugins")
    if value is None:
        return []
    if not isinstance(value, list):
        raise file.error(f"plugins must be a list of names, [one, two], found {value!r}.", "plugins")
    return [_entry(file, str(place), item) for place, item in enumerate(value)]


def _entry(file: YamlFile, place: str, item: Any) -> PluginEntry:
    if isinstance(item, str):
        return PluginEntry(item, place=place)
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        example = "{name: trimmer, turns: 8}"
        raise file.error(f"Here stands a name, or {example}, found {item!r}.", "plugins", place)
    enabled = item.get("enabled", True)
    if not isinstance(enabled, bool):
        raise file.error(f"enabled must be true or false, found {enabled!r}.", "plugins", place, "enabled")
    settings = {key: kept for key, kept in item.items() if key not in RESERVED and kept is not None}
    return PluginEntry(item["name"], enabled, settings, place)


def find_plugins(
    entries: Sequence[PluginEntry], folder: Path, file: YamlFile | None
) -> tuple[list[PluginEntry], dict[str, LlamaForgeError]]:
    """Import what entries name; return the plugins in their order, and what is wrong with what cannot be used.

    Args:
        folder: where modules are looked for after everything that is installed.
        file: settings.yaml, where the entries stand.
    """
    if entries and folder.is_dir() and str(folder) not in sys.path:
        sys.path.append(str(folder))  # last, so that no file in it takes the place of an installed package
    problems: dict[str, LlamaForgeError] = {}
    found: dict[str, PluginEntry] = {}
    named = {entry.name for entry in entries}
    for entry in entries:
        try:
            brought = _found(entry, folder)
        except LlamaForgeError as problem:
            problems[entry.name] = problem
            continue
        for plugin in brought:
            if plugin.name in found:
                text = f"Plugin {plugin.name!r} stands twice in the list. Take one out."
                problems[plugin.name] = _wrong(file, text, entry.place)
            elif plugin is entry or plugin.name not in named:  # else it has an entry of its own
                found[plugin.name] = plugin
                problems |= _problem(plugin, file)
    return list(found.values()), problems


def _found(entry: PluginEntry, folder: Path) -> list[PluginEntry]:
    """Return the plugins that an entry means: the one of that name, else those of the module of that name."""
    if entry.name not in plugin_names():
        _import_module(entry.name, folder)
    if entry.name in plugin_names():
        return [entry]
    brought = plugins_of_module(entry.name)
    if entry.settings or not entry.enabled:
        known = unknown_name("plugin", entry.name, [*brought, *plugin_names()])
        raise PluginError(f"{known} A module that only brings backends or plugins stands in the list by name alone.")
    return [replace(entry, name=name) for name in brought]


def _problem(entry: PluginEntry, file: YamlFile | None) -> dict[str, LlamaForgeError]:
    """Return by its name why a plugin cannot be used with these settings; nothing where it can."""
    try:
        validate(get_plugin(entry.name).Settings, entry.settings)
    except ParameterError as wrong:
        return {entry.name: _wrong(file, str(wrong), entry.place, wrong.name)}
    except LlamaForgeError as problem:
        return {entry.name: problem}
    return {}


def _wrong(file: YamlFile | None, sentence: str, *keys: str) -> LlamaForgeError:
    return file.error(sentence, "plugins", *keys) if file is not None else PluginError(sentence)


def _import_module(name: str, folder: Path) -> None:
    if not MODULE.fullmatch(name):
        raise PluginError(f"Plugin {name!r} is no name of a Python module.")
    importing = begun(lambda: importlib.import_module(name))
    if not ended(importing, aside.IMPORT_SECONDS):
        raise PluginError(f"Plugin {name!r} is broken: its import does not end.")
    try:
        importing.result()
    except ModuleNotFoundError as missing:
        if missing.name == name:
            near = get_close_matches(name, plugin_names(), n=1)
            text = f"Plugin {name!r} was not found. Put {name}.py into {'/'.join(folder.parts[-2:])}, or install it."
            text += f" Did you mean {near[0]!r}?" if near else ""
        else:
            text = f"Plugin {name!r} is broken: it needs {missing.name!r}, which is not installed."
        raise PluginError(text) from missing
    # A user's module may fail in any way, and did so in a thread of its own; it must not take the others down.
    except BaseException as failure:
        raise PluginError(f"Plugin {name!r} is broken: {type(failure).__name__}: {failure}") from failure
