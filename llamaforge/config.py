"""The config folder: settings.yaml, one file a model in models/, one a preset in presets/.

It knows files, not engines' insides. One broken file never hides the others: it is listed with its error and its line.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import platformdirs

from .backends import backend_names, get_backend, schemas
from .backends.parameters import secret_names, unknown_name, validate
from .errors import BackendError, ConfigError, LlamaForgeError, ParameterError
from .guests import GuestLimits
from .hub import is_later_part, is_pattern
from .key_mask import keys_in, literal_keys, masked, unmasked, without_masks
from .named_files import check_name, files_in, move_to_trash, read_named, sweep
from .plugins.choice import PluginUse, plugins_in, uses_of
from .plugins.importing import PluginEntry, entries_of, find_plugins
from .presets import Preset, read_presets, saved_preset
from .redaction import note
from .yaml_file import YamlFile, read_raw

logger = logging.getLogger("llamaforge")

MODEL_KEYS = ("backend", "path", "file", "sha256", "description", "examples", "guests", "parameters", "plugins")
TEXTS = ("file", "sha256", "description")  # of a model, which may be left out
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
SETTINGS_KEYS = ("default_model", "models_dir", "parameters", "guests", "allowed_hosts", "plugins")


@dataclass(slots=True)
class Model:
    """A registered model; `problem` says why it cannot be loaded, if it cannot.

    `file` is the YAML it was read from, `file_in_path` what that says under the key `file`: the name or pattern of a
    file in the repository or folder at `path`. `guests` says whether guests of a shared page may use it; where it is
    None, they may use what runs on this computer, and no service. `plugins` are turned on (true, or their settings) or
    off (false) for it. `examples` are questions that an empty chat offers.
    """

    name: str
    backend: str = ""
    path: str = ""
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    file: YamlFile | None = None
    problem: LlamaForgeError | None = None
    file_in_path: str = ""
    sha256: str = ""
    guests: bool | None = None
    plugins: dict[str, bool | dict[str, Any]] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def origin(self, parameter: str) -> str:
        """Return where a parameter of this model stands: file and line, or that code has set it."""
        keys = ("parameters", parameter)
        if self.file is None or _at(self.file, keys) != self.parameters.get(parameter):
            return "add_model()"
        return f"{self.name}.yaml line {self.file.line_of(*keys)}"


@dataclass(slots=True)
class Settings:
    """What settings.yaml says; an absent file is all defaults."""

    default_model: str | None = None
    models_dir: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    plugins: list[PluginEntry] = field(default_factory=list)
    guests: GuestLimits = field(default_factory=GuestLimits)
    allowed_hosts: list[str] = field(default_factory=list)
    file: YamlFile | None = None
    problem: ConfigError | None = None

    def origin(self, parameter: str) -> str:
        """Return where a parameter for all models stands: file and line."""
        line = self.file.line_of("parameters", parameter) if self.file else None
        return f"settings.yaml line {line}" if line else "settings.yaml"


class Config:
    """The models, presets and settings of one config folder.

    Args:
        folder: where settings.yaml and models/ are; by default $LLAMAFORGE_CONFIG, else ./configs if it is there,
            else the user's own config folder.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = (Path(folder).expanduser() if folder is not None else default_folder()).absolute()
        self.models: dict[str, Model] = {}
        self.presets: dict[str, Preset] = {}
        self.settings = Settings()
        self.plugin_problems: dict[str, LlamaForgeError] = {}  # why some of settings.yaml, or that hung, are not used
        self._plugins: list[PluginEntry] = []
        self._unsaved: set[str] = set()
        self._removed: set[str] = set()
        for folder in (self.folder, self.models_folder, self.presets_folder):
            sweep(folder)
        self.reload()

    @property
    def models_folder(self) -> Path:
        return self.folder / "models"

    @property
    def presets_folder(self) -> Path:
        return self.folder / "presets"

    def file_of(self, name: str) -> Path:
        """Return where the model of a name has its file, whether it is there yet or not."""
        return self.models_folder / f"{name}.yaml"

    def reload(self) -> None:
        """Read every file anew; models added in code and not yet saved stay."""
        self.settings = _read_settings(self.folder / "settings.yaml")
        # First, since they bring backends that the models name.
        found = find_plugins(self.settings.plugins, self.folder / "plugins", self.settings.file)
        self._plugins, self.plugin_problems = found
        unsaved = {name: self.models[name] for name in self._unsaved}
        files = [file for file in files_in(self.models_folder) if file.stem not in self._removed]
        self.models = {file.stem: read_model(file) for file in files} | unsaved
        self.presets = read_presets(self.presets_folder)

    def add(self, model: Model) -> None:
        """Put a model in, in memory only; one of the same name is replaced, its file's comments are kept.

        Raises:
            ConfigError: the name cannot be a file's name.
            BackendError: the backend is unknown.
            ParameterError: a parameter, or a setting of a plugin, is unknown or out of range.
            PluginError: a plugin is unknown or cannot be used.
        """
        check_name(model.name)
        backend = get_backend(model.backend)
        for key, value in _texts(model).items():
            if value and (sentence := _wrong_text(key, value, backend.file_keys)):
                raise ConfigError(sentence)
        model.parameters = validate(backend.Parameters, model.parameters)
        note(literal_keys(backend.Parameters, model.parameters).values())
        for use in uses_of(self._plugins, self.plugin_problems, model.plugins, None):
            if use.problem is not None and use.name in model.plugins:
                raise use.problem
        old = self.models.get(model.name)
        if old is not None and model.file is None:
            model.file = old.file
        self.models[model.name] = model
        self._unsaved.add(model.name)

    def remove(self, name: str) -> None:
        """Take a model out, in memory only; save() moves its file to models/.trash/."""
        del self.models[name]
        self._unsaved.discard(name)
        if self.file_of(name).exists():
            self._removed.add(name)

    def save(self, *, overwrite: bool = False) -> None:
        """Write what was added or removed since the last save.

        Raises:
            ConfigConflict: a file changed on disk since it was read (`overwrite=True` writes all the same).
            CannotSplice: the edit would lose comments.
            ConfigError: the folder cannot be written.
        """
        for name in sorted(self._removed):  # first: one that was removed and added anew is a new file
            move_to_trash(self.file_of(name))
            self._removed.discard(name)
        for name in sorted(self._unsaved):
            model = self.models[name]
            model.file = self._edited(model).save(overwrite=overwrite)
            self._unsaved.discard(name)

    def save_text(self, name: str, text: str, *, digest: str | None, overwrite: bool = False) -> Model:
        """Write a model's file as a person typed it; refuse text that is no model.

        Args:
            digest: of the file as the person saw it; None for a new file.

        Raises:
            ConfigConflict: the file on disk is another by now.
            LlamaForgeError: the text is no valid model; it says where.
        """
        check_name(name)
        typed = replace(YamlFile.from_text(self.file_of(name), text), digest=digest)
        model = _model_of(name, typed)
        if model.problem is not None:
            raise model.problem
        model.file = typed.save(overwrite=overwrite)
        self.models[name] = model
        self._unsaved.discard(name)
        self._removed.discard(name)
        return model

    def save_parameters(self, name: str, values: Mapping[str, Any]) -> Model:
        """Write some parameters into a model's file, on top of what the file says by now; None takes one out.

        Raises:
            LlamaForgeError: the file is broken, cannot be written, or would lose comments.
        """
        file = YamlFile.read(self.file_of(name))
        old = _mapping(file, "parameters")
        changes: dict[tuple[str, ...], Any] = {
            ("parameters", key): value for key, value in values.items() if value is not None or key in old
        }
        return self.save_text(name, file.edited(changes).text, digest=file.digest)

    def raw(self, name: str) -> tuple[str, str | None]:
        """Return the text of a model's file, broken or not, and the digest that save_text asks for."""
        file = self.file_of(name)
        if file.is_file():
            return read_raw(file)
        return self._edited(self.models[name]).text, None

    def model_in(self, name: str, text: str) -> Model:
        """Return the model that a text describes, saved nowhere; `problem` says what is wrong with it.

        Raises:
            ConfigError: the text is no YAML; it says where.
        """
        return _model_of(name, YamlFile.from_text(self.file_of(name), text))

    def shown(self, name: str) -> tuple[str, str | None]:
        """Return what raw() does with every key masked: the text for a page."""
        text, digest = self.raw(name)
        return masked(text, self._secret_names()), digest

    def save_shown(self, name: str, text: str, *, digest: str | None, overwrite: bool = False) -> Model:
        """Write a model's file as a person typed it over what shown() gave; what is still masked stays as it was.

        Raises:
            LlamaForgeError: as save_text does, or a masked key would get to another place or address by this.
        """
        is_there = name in self.models or self.file_of(name).is_file()
        original, on_disk = self.raw(name) if is_there else ("", None)
        if on_disk == digest or overwrite:  # else nothing is written
            text = unmasked(text, original, self._secret_names())
        for use in self.plugins_of(self.model_in(name, text)):
            if isinstance(use.problem, ConfigError) and use.problem.file == self.file_of(name):
                raise use.problem
        return self.save_text(name, text, digest=digest, overwrite=overwrite)

    def save_copy(self, name: str, text: str) -> Model:
        """Write a text of shown(), edited or not, as a new model; what is masked is left out of it.

        Raises:
            LlamaForgeError: as save_text does.
        """
        return self.save_text(self.free_name(name), without_masks(text), digest=None)

    def plugins_of(self, model: Model) -> list[PluginUse]:
        """Return the plugins that a model may have, in the order in which they run, and whether each is on."""
        return uses_of(self._plugins, self.plugin_problems, model.plugins, model.file)

    def switch_plugin(self, name: str, plugin: str, on: bool) -> Model:
        """Write into a model's file that a plugin is on or off for it; its settings there stay.

        Raises:
            LlamaForgeError: the file is broken, cannot be written, or would lose comments.
        """
        file = YamlFile.read(self.file_of(name))
        has_settings = isinstance(_at(file, ("plugins", plugin)), dict)
        keys = ("plugins", plugin, "enabled") if has_settings else ("plugins", plugin)
        return self.save_text(name, file.edited({keys: on}).text, digest=file.digest)

    def suspend_plugin(self, name: str, problem: LlamaForgeError) -> None:
        """Leave a plugin out until everything is read anew."""
        logger.warning("%s", problem)
        self.plugin_problems = {**self.plugin_problems, name: problem}

    def preset(self, name: str) -> Preset:
        """Return one preset.

        Raises:
            ConfigError: there is none of that name; names the nearest.
        """
        if name not in self.presets:
            known = sorted(self.presets)
            raise ConfigError(
                unknown_name("preset", name, known) if known else f"Unknown preset {name!r}: none is saved."
            )
        return self.presets[name]

    def save_preset(self, name: str, values: Mapping[str, Any]) -> Preset:
        """Write a preset that holds these values and no others, and keep the comments of a file of the same name.

        Raises:
            LlamaForgeError: a value cannot be in a preset, or the file is broken, cannot be written, or would lose
                comments.
        """
        preset = self.presets[name] = saved_preset(self.presets_folder, name, values)
        return preset

    def remove_preset(self, name: str) -> None:
        """Move a preset's file to presets/.trash/.

        Raises:
            ConfigError: there is none of that name, or its folder cannot be written.
        """
        self.preset(name)
        move_to_trash(self.presets_folder / f"{name}.yaml")
        del self.presets[name]

    def _secret_names(self) -> list[str]:
        return sorted({name for schema in schemas() for name in secret_names(schema)})

    def free_name(self, name: str) -> str:
        """Return a name for a copy that no model has."""
        copies = (f"{name[:55]} copy{f' {number}' if number > 1 else ''}" for number in range(1, 1000))
        return next(copy for copy in copies if copy not in self.models and not self.file_of(copy).exists())

    def found_files(self) -> list[Path]:
        """Return the .gguf files of `models_dir` that no model is registered for, of a split model the first part."""
        if not self.settings.models_dir:
            return []
        folder = self.resolve(self.settings.models_dir)
        known = {self.resolve(self.model_path(model)) for model in self.models.values() if model.path}
        files = sorted(folder.rglob("*.[gG][gG][uU][fF]")) if os.path.isdir(folder) else []
        models = [file for file in files if not is_later_part(file.name) and "mmproj" not in file.name.lower()]
        return [file for file in models if self.resolve(str(file)) not in known]

    def resolve(self, path: str) -> Path:
        """Return a path as an absolute one; a relative one starts at the config folder's parent."""
        start = self.folder.parent
        try:
            return (start / Path(path).expanduser()).resolve()
        except (OSError, RuntimeError, ValueError):  # nobody's home, a loop of links, a NUL: refused at load
            return start / path

    def model_path(self, model: Model) -> str:
        """Return what the backend is given: a file of this disk where there is one, else the text as it stands."""
        if model.backend in backend_names() and not get_backend(model.backend).paths_are_files:
            return model.path
        resolved = self.resolve(model.path)
        here = os.path.exists(resolved) or model.path.lower().endswith(".gguf")
        path = str(resolved) if here else model.path
        return f"{path}/{model.file_in_path}" if model.file_in_path else path

    def _edited(self, model: Model) -> YamlFile:
        wanted: dict[str, Any] = {"backend": model.backend, "path": model.path}
        wanted |= {key: text for key, text in _texts(model).items() if text}
        wanted |= {"guests": model.guests} if model.guests is not None else {}
        if model.file is None:
            data = wanted | ({"parameters": model.parameters} if model.parameters else {})
            data |= {"plugins": model.plugins} if model.plugins else {}
            data |= {"examples": model.examples} if model.examples else {}
            return YamlFile.new(self.file_of(model.name), data)
        old = _mapping(model.file, "parameters")
        changes: dict[tuple[str, ...], Any] = {(key,): value for key, value in wanted.items()}
        changes |= {(key,): text or None for key, text in _texts(model).items()}
        changes |= {("plugins",): model.plugins or None, ("examples",): model.examples or None}
        changes |= {("parameters", key): model.parameters.get(key) for key in [*old, *model.parameters]}
        return model.file.edited({keys: value for keys, value in changes.items() if _at(model.file, keys) != value})


def default_folder() -> Path:
    """Return $LLAMAFORGE_CONFIG, else ./configs if it is there, else the user's own config folder."""
    if chosen := os.environ.get("LLAMAFORGE_CONFIG"):
        return Path(chosen).expanduser()
    here = Path("configs")
    return here if here.is_dir() else Path(platformdirs.user_config_dir("llamaforge", appauthor=False))


def data_folder(told: str | Path | None = None) -> Path:
    """Return where chats and caches are: as told, on a Space its lasting disk, else the user's own folder."""
    if chosen := told or os.environ.get("LLAMAFORGE_DATA"):
        return Path(chosen).expanduser()
    lasting = Path("/data")
    if "SPACE_ID" in os.environ and os.access(lasting, os.W_OK):
        return lasting / "llamaforge"
    return platformdirs.user_data_path("llamaforge", appauthor=False)


def read_model(path: Path) -> Model:
    """Read one model's file; what is wrong with it stands in `problem`."""
    try:
        return _model_of(path.stem, read_named(path))
    except ConfigError as error:
        return Model(path.stem, problem=error)


def _model_of(name: str, file: YamlFile) -> Model:
    model = Model(name, file=file)
    note(keys_in(file.text))
    try:
        _check_keys(file, MODEL_KEYS)
        model.backend = _text(file, "backend", example="llama.cpp")
        model.path = _text(file, "path", example="models/file.gguf")
        model.file_in_path, model.sha256, model.description = (_text(file, key, required=False) for key in TEXTS)
        model.examples = _names(file, "examples", of="questions")
        model.guests = _yes_or_no(file, "guests")
        model.plugins = plugins_in(file)
        model.parameters = {key: value for key, value in _mapping(file, "parameters").items() if value is not None}
        _check_parameters(file, model)
    except LlamaForgeError as error:
        model.problem = error
    return model


def _check_parameters(file: YamlFile, model: Model) -> None:
    if model.backend not in backend_names():
        raise file.error(unknown_name("backend", model.backend, backend_names()), "backend")
    try:
        backend = get_backend(model.backend)
        for key, text in _texts(model).items():
            if text and (sentence := _wrong_text(key, text, backend.file_keys)):
                raise file.error(sentence, key)
        note(literal_keys(backend.Parameters, model.parameters).values())
        validate(backend.Parameters, model.parameters)
    except ParameterError as error:
        raise file.error(str(error), "parameters", error.name) from error
    except BackendError as error:
        raise file.error(str(error), "backend") from error


def _texts(model: Model) -> dict[str, str]:
    return {"file": model.file_in_path, "sha256": model.sha256, "description": model.description}


def _wrong_text(key: str, text: str, file_keys: Sequence[str]) -> str | None:
    """Return what is wrong with one of TEXTS, for a backend that knows these keys."""
    if key == "description":
        return None
    if key not in file_keys:
        return f"This backend has no use for {key!r}. Take the line out."
    if key == "file" and not is_pattern(text):
        return f"file must be a file's name or pattern inside path, such as 'model-Q4_K_M.gguf', found {text!r}."
    if key == "sha256" and not SHA256.fullmatch(text):
        return f"sha256 must be 64 digits of 0-9 and a-f, found {text!r}."
    return None


def _read_settings(path: Path) -> Settings:
    settings = Settings()
    if not path.exists():
        return settings
    try:
        file = settings.file = YamlFile.read(path)
        note(keys_in(file.text))
        _check_keys(file, SETTINGS_KEYS)
        settings.default_model = _text(file, "default_model", required=False) or None
        settings.models_dir = _text(file, "models_dir", required=False) or None
        settings.plugins = entries_of(file)
        settings.allowed_hosts = _names(file, "allowed_hosts")
        settings.guests = _guests(file)
        parameters = _mapping(file, "parameters")
        _check_shared_parameters(file, parameters)
        settings.parameters = parameters
    except ConfigError as error:
        settings.problem = error
    return settings


def _guests(file: YamlFile) -> GuestLimits:
    try:
        return GuestLimits(**validate(GuestLimits, _mapping(file, "guests")))
    except ParameterError as error:
        raise file.error(str(error), "guests", error.name) from error


def _check_shared_parameters(file: YamlFile, parameters: Mapping[str, Any]) -> None:
    """Every shared parameter must be right for each backend that knows it, and some backend must know it."""
    every = list(schemas())
    for name, value in parameters.items():
        knowing = [schema for schema in every if name in schema.model_fields]
        if not knowing:
            known = {known for schema in every for known in schema.model_fields}
            raise file.error(unknown_name("setting", name, sorted(known)), "parameters", name)
        try:
            for schema in knowing:
                validate(schema, {name: value})
        except ParameterError as error:
            raise file.error(str(error), "parameters", name) from error


def _check_keys(file: YamlFile, known: tuple[str, ...]) -> None:
    """Refuse a key that is nearly a known one; any other is the user's own and is kept."""
    for key in file.data:
        sentence = unknown_name("setting", key, known)
        if key not in known and "Did you mean" in sentence:
            raise file.error(sentence, key)


def _text(file: YamlFile, key: str, *, example: str = "", required: bool = True) -> str:
    value = file.data.get(key)
    if value is None and not required:
        return ""
    if value is None:
        raise file.error(f"{key!r} is missing. Add a line: {key}: {example}")
    if not isinstance(value, str) or (required and not value.strip()):
        raise file.error(f"{key} must be a text, found {value!r}.", key)
    return value


def _mapping(file: YamlFile, key: str) -> dict[str, Any]:
    value = file.data.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise file.error(
            f"{key} must be lines of 'name: value' set in by two spaces.", key
        )  # no quote: it may be a key
    return dict(value)


def _yes_or_no(file: YamlFile, key: str) -> bool | None:
    value = file.data.get(key)
    if value is not None and not isinstance(value, bool):
        raise file.error(f"{key} must be true or false, found {value!r}.", key)
    return value


def _names(file: YamlFile, key: str, of: str = "names") -> list[str]:
    value = file.data.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(name, str) and name.strip() for name in value):
        raise file.error(f"{key} must be a list of {of}, [one, two], found {value!r}.", key)
    return value


def _at(file: YamlFile, keys: tuple[str, ...]) -> Any:
    value: Any = file.data
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
