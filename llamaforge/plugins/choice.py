"""Which plugins a model has: what settings.yaml says for all of them, and what the model's own file says over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..backends.parameters import Parameters, unknown_name, validate
from ..errors import LlamaForgeError, ParameterError, PluginError
from ..yaml_file import YamlFile
from . import SHIPPED, get_plugin, plugin_names
from .base import Plugin
from .importing import PluginEntry


@dataclass(frozen=True, slots=True)
class PluginUse:
    """A plugin and one model: whether it is on, with which settings, and why it cannot be used, if it cannot."""

    name: str
    enabled: bool
    plugin: type[Plugin] | None = None
    settings: Parameters | None = None
    problem: LlamaForgeError | None = None

    @property
    def about(self) -> str:
        """One sentence on what it does, for people."""
        return self.plugin.about if self.plugin is not None else ""


def plugins_in(file: YamlFile) -> dict[str, bool | dict[str, Any]]:
    """Return what a model's file says under `plugins:`: a name, and true, false or settings.

    Raises:
        ConfigError: it is something else.
    """
    value = file.data.get("plugins")
    if value is None:
        return {}
    if not isinstance(value, dict):
        text = "plugins must be lines of 'name: true', 'name: false' or a name with settings, set in by two spaces."
        raise file.error(text, "plugins")
    for name, said in value.items():
        if not isinstance(said, (bool, dict)):
            raise file.error(f"{name} must be true, false or settings, found {said!r}.", "plugins", name)
        if isinstance(said, dict) and not isinstance(said.get("enabled", True), bool):
            text = f"enabled must be true or false, found {said['enabled']!r}."
            raise file.error(text, "plugins", name, "enabled")
    return dict(value)


def uses_of(
    shared: Sequence[PluginEntry],
    problems: Mapping[str, LlamaForgeError],
    own: Mapping[str, bool | dict[str, Any]],
    file: YamlFile | None,
) -> list[PluginUse]:
    """Return every plugin that a model may have, in the order in which they run, with what holds for it.

    Those of settings.yaml come first, in their order; they are on where neither place says otherwise. Ours follow,
    off until the model's file turns them on.

    Args:
        shared: what settings.yaml says.
        problems: why plugins of settings.yaml cannot be used.
        own: what the model's file says, over it; `file` is that file.
    """
    entries = {entry.name: entry for entry in shared}
    names = dict.fromkeys([*entries, *SHIPPED, *own])
    return [_use(entries.get(name), name, own.get(name), problems.get(name), file) for name in names]


def _use(
    entry: PluginEntry | None,
    name: str,
    said: bool | dict[str, Any] | None,
    problem: LlamaForgeError | None,
    file: YamlFile | None,
) -> PluginUse:
    enabled = _enabled(entry, said)
    if problem is not None:
        return PluginUse(name, enabled, problem=problem)
    own = {key: value for key, value in said.items() if key != "enabled"} if isinstance(said, dict) else {}
    try:
        if entry is None and name not in SHIPPED:
            raise PluginError(_not_named(name))
        plugin = get_plugin(name)
        given = validate(plugin.Settings, {**(entry.settings if entry is not None else {}), **own})
        return PluginUse(name, enabled, plugin, plugin.Settings(**given))
    except LlamaForgeError as wrong:
        keys = ("plugins", name, wrong.name) if isinstance(wrong, ParameterError) else ("plugins", name)
        return PluginUse(name, enabled, problem=file.error(str(wrong), *keys) if file is not None else wrong)


def _enabled(entry: PluginEntry | None, said: bool | dict[str, Any] | None) -> bool:
    if isinstance(said, dict):
        return bool(said.get("enabled", True))
    return said if said is not None else entry is not None and entry.enabled


def _not_named(name: str) -> str:
    if name in plugin_names():
        return f"Plugin {name!r} is not named in settings.yaml. Add it there: plugins: [{name}]"
    return unknown_name("plugin", name, plugin_names())
