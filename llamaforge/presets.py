"""Presets: named sets of parameters for answers, one plain YAML file each, that hold for every backend.

What one backend does not know, does not honour or cannot take is left out for it, and told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .backends import get_backend, schemas
from .backends.parameters import ParameterInfo, Parameters, SamplingParameters, describe, unknown_name, validate
from .errors import ConfigError, LlamaForgeError, ParameterError
from .key_mask import keys_in
from .named_files import check_name, files_in, read_named
from .redaction import note
from .yaml_file import YamlFile


@dataclass(frozen=True, slots=True)
class PresetFit:
    """What of a preset a model takes; `left_out` says of each other parameter why not."""

    values: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Preset:
    """A named set of parameters; `problem` says why it cannot be applied, if it cannot."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    file: YamlFile | None = None
    problem: LlamaForgeError | None = None

    def fit(self, backend: str, limits: Mapping[str, int] | None = None) -> PresetFit:
        """Return what a backend takes of it.

        Args:
            limits: upper bounds of one model, as for validate().

        Raises:
            ConfigError: the preset's file is broken.
            BackendError: the backend is unknown.
        """
        if self.problem is not None:
            raise self.problem
        fit = PresetFit()
        for name, value in self.parameters.items():
            if reason := _why_not(backend, name, value, limits):
                fit.left_out[name] = reason
            else:
                fit.values[name] = value
        return fit


def read_presets(folder: Path) -> dict[str, Preset]:
    """Read every preset of a folder; what is wrong with one stands in its `problem`."""
    return {file.stem: _read_preset(file) for file in files_in(folder)}


def saved_preset(folder: Path, name: str, values: Mapping[str, Any]) -> Preset:
    """Write a preset that holds these values and no others, and keep the comments of a file that is there.

    Raises:
        ParameterError: a value cannot be in a preset.
        ConfigError: the name cannot be a file's name; the file is broken, or cannot be written without loss.
    """
    check_name(name)
    wanted = {key: value for key, value in values.items() if value is not None}
    _check(wanted)
    path = folder / f"{name}.yaml"
    if not path.exists():
        return _preset_of(name, YamlFile.new(path, wanted).save())
    old = YamlFile.read(path)
    changes: dict[tuple[str, ...], Any] = {(key,): wanted.get(key) for key in [*wanted, *old.data]}
    return _preset_of(name, old.edited(changes).save())


def _read_preset(path: Path) -> Preset:
    try:
        return _preset_of(path.stem, read_named(path))
    except ConfigError as error:
        return Preset(path.stem, problem=error)


def _preset_of(name: str, file: YamlFile) -> Preset:
    note(keys_in(file.text))
    preset = Preset(name, {key: value for key, value in file.data.items() if value is not None}, file)
    try:
        _check(preset.parameters)
    except ParameterError as error:
        preset.problem = file.error(str(error), error.name)
    return preset


def _check(values: Mapping[str, Any]) -> None:
    """Raise a ParameterError unless each value may be given to some backend with an answer."""
    every: list[type[Parameters]] = [SamplingParameters, *schemas()]
    described = [(schema, describe(schema)) for schema in every]
    for name, value in values.items():
        taking = [schema for schema, infos in described if name in infos and _is_of_answers(infos[name])]
        if not taking:
            raise ParameterError(_no_preset_parameter(name, [infos for _, infos in described]), name=name)
        refusals = [refusal for schema in taking if (refusal := _refusal(schema, name, value))]
        if len(refusals) == len(taking):
            raise refusals[0]


def _no_preset_parameter(name: str, every: list[dict[str, ParameterInfo]]) -> str:
    if any(name in infos for infos in every):
        return f"{name} cannot be in a preset, which holds parameters of answers. Set it in the model's file."
    known = {info.name for infos in every for info in infos.values() if _is_of_answers(info)}
    return unknown_name("setting", name, sorted(known))


def _is_of_answers(info: ParameterInfo) -> bool:
    return info.scope == "generate" and not info.secret and not info.file_only


def _refusal(
    schema: type[Parameters], name: str, value: Any, limits: Mapping[str, int] | None = None
) -> ParameterError | None:
    try:
        validate(schema, {name: value}, limits=limits)
    except ParameterError as refusal:
        return refusal
    return None


def _why_not(backend: str, name: str, value: Any, limits: Mapping[str, int] | None) -> str:
    """Return why a backend does not take a value; empty where it does."""
    near = get_backend(backend)
    info = describe(near.Parameters).get(name)
    if info is None:
        return f"{backend} has no such parameter."
    if name in near.ignored:
        return near.ignored[name]
    if not _is_of_answers(info):
        return f"{backend} takes it from the model's file."
    return str(_refusal(near.Parameters, name, value, limits) or "")
