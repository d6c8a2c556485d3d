"""Which value of a parameter wins: the call, the chat, the model's file, settings.yaml, or the default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .backends import get_backend
from .backends.parameters import describe, validate
from .config import Model, Settings


@dataclass(frozen=True, slots=True)
class Setting:
    """The value of a parameter and where it comes from ("this chat", "tiny.yaml line 4", "default")."""

    value: Any
    origin: str
    is_set: bool = field(default=True)


def settings_of(
    model: Model, shared: Settings, defaults: Mapping[str, Any], call: Mapping[str, Any]
) -> dict[str, Setting]:
    """Return each parameter of a model with its value and where that comes from.

    Args:
        defaults: the model's own, from its file.
    """
    infos = describe(get_backend(model.backend).Parameters)
    settings = {info.name: Setting(info.default, "default", is_set=False) for info in infos.values()}
    settings |= {key: Setting(value, "the model", is_set=False) for key, value in defaults.items() if key in infos}
    settings |= {key: Setting(value, "settings.yaml") for key, value in shared.parameters.items() if key in infos}
    settings |= {key: Setting(value, model.origin(key)) for key, value in model.parameters.items()}
    return settings | {key: Setting(value, "this chat") for key, value in call.items() if value is not None}


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
