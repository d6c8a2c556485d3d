"""What is wrong with a config folder, each with its file and line: what it says, and what the models in it need.

It loads nothing: a model's own check reads its header, and asks whether packages and keys are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .backends import get_backend
from .config import Model
from .errors import BackendMissing, ConfigError, LlamaForgeError, ModelError, ParameterError
from .forge import LlamaForge
from .key_mask import literal_keys
from .redaction import hide_secrets
from .yaml_file import YamlFile


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence and where it belongs; a note is no problem, but good to know."""

    text: str
    file: Path
    line: int | None = None
    is_note: bool = False

    def __str__(self) -> str:
        """Return it as compilers write: file:line: text, the file as seen from here."""
        here = Path.cwd()
        file = self.file.relative_to(here) if self.file.is_relative_to(here) else self.file
        line = f":{self.line}" if self.line else ""
        return f"{file}{line}: {'note: ' if self.is_note else ''}{self.text}"


def findings(forge: LlamaForge) -> list[Finding]:
    """Return everything that is wrong with a config folder, and what is good to know about it."""
    config = forge.config
    if not config.folder.is_dir():
        return [Finding("There is no such folder. Registering a model makes it.", config.folder)]
    found = list(_of_settings(forge))
    for preset in config.presets.values():
        if preset.problem is not None:
            found.append(_placed(preset.problem, config.presets_folder / f"{preset.name}.yaml", preset.file))
    for model in forge.models():
        found += _of_model(forge, model)
    return found


def state_of(forge: LlamaForge, model: Model) -> str:
    """Return in a sentence whether a model can be loaded, and why not."""
    outcome = _checked(forge, model.name)
    return _sentence(outcome) if isinstance(outcome, LlamaForgeError) else outcome or "Ready to load."


def _of_settings(forge: LlamaForge) -> Iterator[Finding]:
    config, settings = forge.config, forge.config.settings
    path = config.folder / "settings.yaml"
    if settings.problem is not None:
        yield _placed(settings.problem, path, settings.file)
    for problem in config.plugin_problems.values():
        yield _placed(problem, path, settings.file, "plugins")
    if settings.default_model is not None and settings.default_model not in config.models:
        try:
            forge.model(settings.default_model)
        except LlamaForgeError as error:
            yield _placed(error, path, settings.file, "default_model")
    if settings.models_dir is not None and not config.resolve(settings.models_dir).is_dir():
        missing = ConfigError(f"There is no folder {settings.models_dir!r}.")
        yield _placed(missing, path, settings.file, "models_dir")


def _of_model(forge: LlamaForge, model: Model) -> Iterator[Finding]:
    path, outcome = forge.config.file_of(model.name), _checked(forge, model.name)
    if isinstance(outcome, ParameterError):
        yield _of_parameter(forge, model, outcome.name, str(outcome))
        return
    if isinstance(outcome, LlamaForgeError):
        yield _placed(outcome, path, model.file, "backend" if isinstance(outcome, BackendMissing) else "path")
        return
    if outcome:
        yield Finding(outcome, path, model.file.line_of("path") if model.file else None, is_note=True)
    backend = get_backend(model.backend)
    for name in literal_keys(backend.Parameters, model.parameters):
        text = f"A key stands here in plain text. Put it into an environment variable: {name}: ${{OPENAI_API_KEY}}"
        yield _of_parameter(forge, model, name, text, is_note=True)
    for name in [name for name in model.parameters if name in backend.ignored]:
        yield _of_parameter(forge, model, name, f"{name} has no effect: {backend.ignored[name]}", is_note=True)


def _checked(forge: LlamaForge, name: str) -> LlamaForgeError | str | None:
    """Return why a model cannot be loaded, else a warning where there is one."""
    try:
        return forge.check_model(name)
    except LlamaForgeError as error:
        return error
    # A custom backend may raise anything.
    except Exception as failure:  # noqa: BLE001
        return ModelError(f"Its backend cannot check it: {type(failure).__name__}: {failure}")


def _of_parameter(forge: LlamaForge, model: Model, name: str, text: str, *, is_note: bool = False) -> Finding:
    """Return a finding at the line that sets a parameter: the model's own, or that of settings.yaml."""
    file = model.file
    if name not in model.parameters and name in forge.config.settings.parameters:
        file = forge.config.settings.file
    place = file.path if file is not None else forge.config.file_of(model.name)
    return Finding(text, place, file.line_of("parameters", name) if file is not None else None, is_note)


def _placed(error: LlamaForgeError, path: Path, file: YamlFile | None, *keys: str) -> Finding:
    """Return an error where it says that it belongs, else at a key of the file."""
    if isinstance(error, ConfigError) and error.file is not None:
        return Finding(_sentence(error), error.file, error.line)
    return Finding(_sentence(error), path, file.line_of(*keys) if file is not None else None)


def _sentence(error: LlamaForgeError) -> str:
    return hide_secrets(error.problem) if isinstance(error, ConfigError) else str(error)
