"""Which value of a parameter wins: the call, the chat, the model's file, settings.yaml, or the default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .backends import get_backend
from .backends.parameters import ENGINE_DEFAULT, describe, validate
from .config import Model, Settings
from .types import ModelCard


@dataclass(frozen=True, slots=True)
class Setting:
    """The value of a parameter and where it comes from.

    `origin` is "this chat", "preset calm", "tiny.yaml line 4", "settings.yaml line 2" or, where nobody set it,
    "the model itself", what a ModelCard says, or "the engine's default". `over` is what would hold without it.
    """

    value: Any
    origin: str
    is_set: bool = True
    over: Setting | None = field(default=None, compare=False)


def settings_of(
    model: Model, shared: Settings, card: ModelCard, call: Mapping[str, Any], origins: Mapping[str, str]
) -> dict[str, Setting]:
    """Return each parameter of a model with its value and where that comes from.

    Args:
        card: what the model says about itself.
        origins: of values of the call, where that is not "this chat".
    """
    infos = describe(get_backend(model.backend).Parameters)
    settings = {info.name: Setting(info.default, ENGINE_DEFAULT, is_set=False) for info in infos.values()}

    def put(key: str, value: Any, origin: str, *, is_set: bool = True) -> None:
        settings[key] = Setting(value, origin, is_set, settings.get(key))

    for key, value in card.defaults.items():
        if key in infos:
            put(key, value, card.origins.get(key, "the model itself"), is_set=False)
    for key, value in shared.parameters.items():
        if key in infos and value is not None:
            put(key, value, shared.origin(key))
    for key, value in model.parameters.items():
        put(key, value, model.origin(key))
    for key, value in call.items():
        if value is not None:
            put(key, value, origins.get(key, "this chat"))
    return settings


def effective(
    model: Model, shared: Settings, call: Mapping[str, Any], context_window: int | None = None
) -> dict[str, Any]:
    """Return the set parameters that reach the backend, checked.

    Raises:
        ParameterError: a parameter is unknown or out of range.
    """
    schema = get_backend(model.backend).Parameters
    known = {key: value for key, value in shared.parameters.items() if key in schema.model_fields}
    validate(schema, call, limits={"max_tokens": context_window} if context_window else {})
    return validate(schema, {**known, **model.parameters, **{k: v for k, v in call.items() if v is not None}})


def load_settings(model: Model, shared: Settings, call: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return everything that makes a loaded model what it is: backend, file, and the parameters of scope "load"."""
    infos = describe(get_backend(model.backend).Parameters)
    values = effective(model, shared, call)
    loads = {key: value for key, value in values.items() if infos[key].scope == "load"}
    return model.backend, model.path, model.file_in_path, model.sha256, loads
