"""The one schema of parameters: what reaches an engine, and what a person is told of what does not."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
from pydantic import Field

from llamaforge import ParameterError, Parameters, SamplingParameters, backend_names, describe, get_backend, validate
from llamaforge.backends.llama_cpp import LlamaCppParameters
from llamaforge.backends.parameters import generate, load

SCHEMAS = {name: get_backend(name).Parameters for name in backend_names()}
EVERY = [(backend, info) for backend, schema in SCHEMAS.items() for info in describe(schema).values()]
NUMBERS = [(backend, info) for backend, info in EVERY if info.kind in ("whole number", "number")]


def names_of(rows: list[tuple[str, Any]]) -> list[str]:
    return [f"{backend}:{info.name}" for backend, info in rows]


def refusal(schema: type[Parameters] = LlamaCppParameters, /, **values: Any) -> str:
    with pytest.raises(ParameterError) as caught:
        validate(schema, values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", -0.1, "temperature must be a number from 0 to 2, found -0.1."),
        ("temperature", 2.01, "temperature must be a number from 0 to 2, found 2.01."),
        ("temperature", math.nan, "temperature must be a number from 0 to 2, found nan."),
        ("temperature", math.inf, "temperature must be a number from 0 to 2, found inf."),
        ("temperature", True, "temperature must be a number from 0 to 2, found True."),
        ("temperature", "0.7", "temperature must be a number from 0 to 2, found '0.7'."),
        ("max_tokens", 0, "max_tokens must be a whole number from 1 to 1,048,576, found 0."),
        ("max_tokens", -1, "max_tokens must be a whole number from 1 to 1,048,576, found -1."),
        ("max_tokens", 1.5, "max_tokens must be a whole number from 1 to 1,048,576, found 1.5."),
        ("max_tokens", 1e9, "max_tokens must be a whole number from 1 to 1,048,576, found 1000000000.0."),
        ("max_tokens", math.nan, "max_tokens must be a whole number from 1 to 1,048,576, found nan."),
        ("max_tokens", True, "max_tokens must be a whole number from 1 to 1,048,576, found True."),
        ("top_p", 1.1, "top_p must be a number from 0 to 1, found 1.1."),
        ("top_p", -math.inf, "top_p must be a number from 0 to 1, found -inf."),
        ("top_k", -1, "top_k must be a whole number from 0 to 1,000, found -1."),
        ("top_k", 2**31, "top_k must be a whole number from 0 to 1,000, found 2147483648."),
        ("min_p", -0.1, "min_p must be a number from 0 to 1, found -0.1."),
        ("repeat_penalty", 0, "repeat_penalty must be a number from 0.1 to 2, found 0."),
        ("repeat_penalty", math.inf, "repeat_penalty must be a number from 0.1 to 2, found inf."),
        ("presence_penalty", 2.5, "presence_penalty must be a number from -2 to 2, found 2.5."),
        ("frequency_penalty", [0.1], "frequency_penalty must be a number from -2 to 2, found [0.1]."),
        ("seed", -1, "seed must be a whole number from 0 to 4,294,967,294, found -1."),
        ("seed", 2**64, "seed must be a whole number from 0 to 4,294,967,294, found 18446744073709551616."),
        ("seed", "text", "seed must be a whole number from 0 to 4,294,967,294, found 'text'."),
        ("n_gpu_layers", -5, "n_gpu_layers must be a whole number from -1 to 9,999, found -5."),
        ("n_ctx", "big", "n_ctx must be a whole number from 256 to 16,777,216, found 'big'."),
        ("f16_kv", 1, "f16_kv must be true or false, found 1."),
        ("f16_kv", "yes", "f16_kv must be true or false, found 'yes'."),
        ("stop", "END", "stop must be a list of texts, at most 16, found 'END'."),
        ("stop", [1], "stop must be a list of texts, at most 16, found [1]."),
        ("stop", ["a"] * 17, "stop must be a list of texts, at most 16, found ['a', 'a',"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_wrong_value_is_refused_with_what_it_may_be(name: str, value: object, expected: str) -> None:
    assert refusal(**{name: value}).startswith(expected)


@pytest.mark.parametrize(("backend", "info"), NUMBERS, ids=names_of(NUMBERS))
def test_bounds_are_part_of_what_is_allowed_and_nothing_beyond(backend: str, info: Any) -> None:
    schema = SCHEMAS[backend]
    for value in (info.minimum, info.maximum):
        assert validate(schema, {info.name: value}) == {info.name: value}
    for value in (info.minimum - 1, info.maximum + 1):
        assert repr(value) in refusal(schema, **{info.name: value})


@pytest.mark.parametrize(("backend", "info"), NUMBERS, ids=names_of(NUMBERS))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, False, "1", [1], {}])
def test_what_is_no_number_never_passes_for_one(backend: str, info: Any, value: object) -> None:
    assert refusal(SCHEMAS[backend], **{info.name: value}).startswith(f"{info.name} must be a")


@pytest.mark.parametrize(("backend", "info"), EVERY, ids=names_of(EVERY))
def test_every_parameter_has_a_sentence_of_help_and_a_valid_default(backend: str, info: Any) -> None:
    assert info.help.endswith(".") and info.scope in ("load", "generate")
    if info.default is not None:
        assert validate(SCHEMAS[backend], {info.name: info.default}) == {info.name: info.default}


@pytest.mark.parametrize(
    ("name", "nearest"), [("temprature", "temperature"), ("nctx", "n_ctx"), ("maxtokens", "max_tokens")]
)
def test_an_unknown_name_is_answered_with_the_nearest_one(name: str, nearest: str) -> None:
    assert refusal(**{name: 1}) == f"Unknown setting {name!r}. Did you mean {nearest!r}?"


def test_a_name_that_is_near_to_none_is_answered_with_all() -> None:
    message = refusal(mirostat=1)
    assert message.startswith("Unknown setting 'mirostat'. Known: temperature, max_tokens, ")


def test_none_means_unset_and_is_left_out() -> None:
    values = {"temperature": None, "seed": 0, "stop": None, "f16_kv": False}
    assert validate(LlamaCppParameters, values) == {"seed": 0, "f16_kv": False}
    assert validate(LlamaCppParameters, {}) == {}


def test_a_whole_number_is_a_number_too() -> None:
    assert validate(SamplingParameters, {"temperature": 1, "top_p": 1}) == {"temperature": 1, "top_p": 1}


def test_every_wrong_parameter_is_named_and_the_first_is_the_errors_name() -> None:
    with pytest.raises(ParameterError) as caught:
        validate(LlamaCppParameters, {"top_k": 40, "temperature": 3, "n_ctx": 1, "sed": 4})
    message = str(caught.value)
    assert "temperature must be" in message and "n_ctx must be" in message and "Unknown setting 'sed'" in message
    assert "top_k" not in message and caught.value.name == "temperature"


def test_a_long_wrong_value_is_shown_in_part() -> None:
    message = refusal(temperature="x" * 500)
    assert message.endswith("xxx....") and len(message) < 150


@pytest.mark.parametrize(
    ("value", "allowed"), [(2048, True), (2049, False), (16_777_216, False)], ids=["at it", "above it", "far above"]
)
def test_limits_of_one_model_are_tighter(value: int, allowed: bool) -> None:
    if allowed:
        assert validate(LlamaCppParameters, {"n_ctx": value}, limits={"n_ctx": 2048}) == {"n_ctx": value}
        return
    with pytest.raises(ParameterError, match=f"n_ctx may be at most 2,048 here, found {value}") as caught:
        validate(LlamaCppParameters, {"n_ctx": value}, limits={"n_ctx": 2048})
    assert caught.value.name == "n_ctx"


def test_a_limit_does_not_hide_a_wrong_type() -> None:
    with pytest.raises(ParameterError, match="n_ctx must be a whole number from 256"):
        validate(LlamaCppParameters, {"n_ctx": 9000.5}, limits={"n_ctx": 2048})


class OwnParameters(Parameters):
    """What a custom backend may declare."""

    voice: Literal["calm", "loud"] | None = generate("calm", "How it speaks.")
    depth: int | None = load(3, "How deep it thinks.", ge=1, le=9, step=2, advanced=False)
    name: str | None = generate(None, "Who it is.")
    open_ended: int | None = generate(None, "Any number from one.", ge=1)
    level: Literal[1, 2] | None = generate(1, "One of two.")
    words: list[str] = Field(default_factory=list)
    needed: int


def test_a_schema_of_ones_own_is_described_by_name() -> None:
    infos = describe(OwnParameters)
    assert list(infos) == ["voice", "depth", "name", "open_ended", "level", "words", "needed"]
    voice, depth = infos["voice"], infos["depth"]
    assert (voice.kind, voice.choices, voice.default, voice.scope) == ("choice", ("calm", "loud"), "calm", "generate")
    assert (depth.kind, depth.minimum, depth.maximum, depth.step) == ("whole number", 1, 9, 2)
    assert (depth.scope, depth.advanced, depth.default, depth.help) == ("load", False, 3, "How deep it thinks.")
    assert (infos["name"].kind, infos["needed"].default, infos["words"].default) == ("text", None, [])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"voice": "shrill"}, "voice must be one of calm, loud, found 'shrill'."),
        ({"depth": 10}, "depth must be a whole number from 1 to 9, found 10."),
        ({"name": 5}, "name must be a text, found 5."),
        ({"open_ended": 0}, "open_ended must be a whole number of at least 1, found 0."),
        ({"level": 3}, "level must be one of 1, 2, found 3."),
    ],
    ids=["choice", "number", "text", "one bound", "choice of numbers"],
)
def test_a_schema_of_ones_own_is_checked_like_the_others(values: dict[str, Any], expected: str) -> None:
    assert refusal(OwnParameters, needed=1, **values) == expected


def test_a_parameter_that_a_schema_needs_is_named() -> None:
    assert refusal(OwnParameters) == "needed must be a whole number, found None."
