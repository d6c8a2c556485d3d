"""The one schema of parameters: bounds, defaults, help and scope.

YAML checks, the page's controls, API validation and the docs' tables all derive from these pydantic models.
A value that nobody sets stays out: it is not sent to the engine and not saved.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import annotated_types
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from ..errors import ParameterError

LARGEST_SEED = 4_294_967_294  # llama.cpp takes one more for "any"
Scope = Literal["load", "generate"]
Kind = Literal["whole number", "number", "yes or no", "text", "list of texts", "choice"]

OTHER_CHATS = (
    "RAM for the prompts of other chats, in MB, so that turning back to one evaluates nothing again; 0 keeps none. "
    "Unset: a quarter of what the model leaves free, at most 2,147."
)
ENGINE_DEFAULT = "the engine's default"  # where a value comes from that neither a person nor the model has set


def load(default: Any, help: str, **options: Any) -> Any:
    """Declare a parameter that takes effect when the model is loaded.

    Args:
        default: what the engine does when it is unset.
        options: `advanced=False` shows it in the simple view, `step` is its slider's, `file_only=True` takes it from a
            model's file and from code, never from the page, `secret=True` keeps it out of error texts too; all others
            are pydantic's (ge, le, pattern, examples, …).
    """
    return _declare("load", default, help, options)


def generate(default: Any, help: str, **options: Any) -> Any:
    """Declare a parameter that may change with every answer; arguments as for load()."""
    return _declare("generate", default, help, options)


def _declare(scope: Scope, default: Any, help: str, options: dict[str, Any]) -> Any:
    usual = {"advanced": True, "step": None, "file_only": False, "secret": False}
    extra = {name: options.pop(name, value) for name, value in usual.items()}
    extra |= {"scope": scope, "engine_default": default}
    return Field(default=None, description=help, json_schema_extra=extra, **options)


class Parameters(BaseModel):
    """Base of a backend's parameters: nothing unknown, no infinities, no booleans as numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class SamplingParameters(Parameters):
    """Sampling parameters that the backends share."""

    temperature: float | None = generate(
        0.8,
        "Randomness: 0 always takes the likeliest token, higher is more varied.",
        ge=0,
        le=2,
        step=0.05,
        advanced=False,
    )
    max_tokens: int | None = generate(
        None, "Longest answer in tokens. Unset: until the context window is full.", ge=1, le=1_048_576, advanced=False
    )
    top_p: float | None = generate(
        0.95,
        "Keep the likeliest tokens that together reach this probability; 1 keeps all.",
        ge=0,
        le=1,
        step=0.01,
        advanced=False,
    )
    top_k: int | None = generate(40, "Keep only this many of the likeliest tokens; 0 keeps all.", ge=0, le=1000)
    min_p: float | None = generate(
        0.05, "Drop tokens less likely than this share of the likeliest one.", ge=0, le=1, step=0.01
    )
    repeat_penalty: float | None = generate(
        1.0, "Makes tokens of the recent text less likely; 1 is off.", ge=0.1, le=2, step=0.05
    )
    presence_penalty: float | None = generate(
        0.0, "Makes tokens that already occurred less likely, once.", ge=-2, le=2, step=0.05
    )
    frequency_penalty: float | None = generate(
        0.0, "Makes tokens less likely each time they occur.", ge=-2, le=2, step=0.05
    )
    seed: int | None = generate(
        None, "Same seed, same settings, same text. Unset: a new one for each answer.", ge=0, le=LARGEST_SEED
    )
    stop: list[str] | None = generate(None, "Texts that end the answer; they are not part of it.", max_length=16)


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """One parameter as the page and the docs show it."""

    name: str
    kind: Kind
    help: str
    scope: Scope
    advanced: bool
    default: Any
    minimum: float | None
    maximum: float | None
    step: float | None
    choices: tuple[str, ...]
    max_length: int | None = None
    examples: tuple[str, ...] = ()
    file_only: bool = False
    secret: bool = False

    @property
    def expectation(self) -> str:
        """What a value must be, for error texts: "a whole number from 1 to 8192"."""
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        if self.examples:
            return "a text such as " + ", ".join(self.examples)
        text = "true or false" if self.kind == "yes or no" else f"a {self.kind}"
        if self.minimum is not None and self.maximum is not None:
            return f"{text} from {_bound(self.minimum)} to {_bound(self.maximum)}"
        if self.minimum is not None:
            return f"{text} of at least {_bound(self.minimum)}"
        most = self.max_length if self.maximum is None else self.maximum
        return f"{text}, at most {_bound(most)}" if most is not None else text


def _bound(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def describe(schema: type[Parameters]) -> dict[str, ParameterInfo]:
    """Return the parameters of a schema by name, in the order of their declaration."""
    return {name: _info(name, field) for name, field in schema.model_fields.items()}


def _info(name: str, field: FieldInfo) -> ParameterInfo:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    inner = _without_none(field.annotation)
    minimum = next((m.ge for m in field.metadata if isinstance(m, annotated_types.Ge)), None)
    maximum = next((m.le for m in field.metadata if isinstance(m, annotated_types.Le)), None)
    max_length = next((m.max_length for m in field.metadata if isinstance(m, annotated_types.MaxLen)), None)
    return ParameterInfo(
        name=name,
        kind=_kind(inner),
        help=field.description or "",
        scope=typing.cast(Scope, extra.get("scope", "generate")),
        advanced=bool(extra.get("advanced", True)),
        default=extra.get(
            "engine_default", None if field.is_required() else field.get_default(call_default_factory=True)
        ),
        minimum=typing.cast("float | None", minimum),
        maximum=typing.cast("float | None", maximum),
        step=typing.cast("float | None", extra.get("step")),
        choices=typing.get_args(inner) if typing.get_origin(inner) is Literal else (),
        max_length=max_length,
        examples=tuple(map(str, field.examples or ())),
        file_only=bool(extra.get("file_only", False)),
        secret=bool(extra.get("secret", False)),
    )


def secret_names(schema: type[Parameters]) -> list[str]:
    """Return the names of the parameters that hold secrets."""
    return [name for name, info in describe(schema).items() if info.secret]


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(arg for arg in typing.get_args(annotation) if arg is not type(None))
    return annotation


def _kind(annotation: Any) -> Kind:
    if typing.get_origin(annotation) is Literal:
        return "choice"
    if typing.get_origin(annotation) is list:
        return "list of texts"
    kinds: dict[Any, Kind] = {int: "whole number", float: "number", bool: "yes or no"}
    return kinds.get(annotation, "text")


def shared(name: str, unset: str) -> Any:
    """Declare a parameter of SamplingParameters again, in its bounds, with what an engine does when it is unset."""
    info = describe(SamplingParameters)[name]
    bounds = {"ge": info.minimum, "le": info.maximum}
    return generate(None, f"{info.help} {unset}", advanced=info.advanced, step=info.step, **bounds)


def validate(
    schema: type[Parameters], values: Mapping[str, Any], *, limits: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return the set values, checked; None means unset and is left out.

    Args:
        limits: upper bounds of one model that are tighter than the schema's ("n_gpu_layers": its layer count).

    Raises:
        ParameterError: names every wrong parameter, what it may be, and the nearest known name.
    """
    infos = describe(schema)
    given = {name: value for name, value in values.items() if value is not None}
    problems: dict[str, str] = {}
    try:
        schema.model_validate(given)
    except ValidationError as invalid:
        for error in invalid.errors():
            name = str(error["loc"][0]) if error["loc"] else "parameters"
            problems.setdefault(name, _problem(name, given.get(name), infos, error))
    for name, most in (limits or {}).items():
        value = given.get(name)
        if name not in problems and isinstance(value, (int, float)) and value > most:
            problems[name] = f"{name} may be at most {most:,} here, found {value!r}."
    if problems:
        raise ParameterError(" ".join(problems.values()), name=next(iter(problems)))
    return given


def _problem(name: str, value: Any, infos: Mapping[str, ParameterInfo], error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return unknown_name("setting", name, infos)
    if name in infos:
        shown = "something else" if infos[name].secret else repr(value)
        return f"{name} must be {infos[name].expectation}, found {shown if len(shown) <= 60 else shown[:57] + '...'}."
    return f"{name}: {error['msg']}."


def unknown_name(what: str, name: str, known: typing.Iterable[str]) -> str:
    """Return a sentence that names what is unknown, the nearest known name, else all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
    return f"Unknown {what} {name!r}. {hint}"
