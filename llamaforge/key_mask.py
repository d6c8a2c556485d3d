"""The text of a model's file as a page may show it: keys masked, put back on save, left out of copies.

A file that is no valid YAML is masked too, and then rather too much than too little: nothing of it is lost on save.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .backends.parameters import Parameters, secret_names
from .errors import ConfigError
from .redaction import SHORTEST_SECRET
from .yaml_file import YamlFile

MASK = "•••• (in file)"

_MASKS = re.compile(r"•••• \(in file(?: (\d{1,4}))?\)")
_KEY_FIELD = r"api[ _-]?key"
_VARIABLE = re.compile(r"\$\{\w+\}")
_ONLY_A_VARIABLE = re.compile(r"[\"']?\$\{\w+\}[\"']?[\s,}\]]*")
# In comments and other texts of a valid file, such as "# OPENAI_API_KEY=…", and keys that nobody takes for a name.
_SAID = re.compile(
    rf"{_KEY_FIELD}s?[\"']?[ \t]*[:= \t][ \t]*[\"']?([^\s\"'#,{{}}\[\]$]{{8,}})"
    r"|\b((?:sk-|hf_)[\w-]*[a-z0-9]{16,}[\w-]*)",
    re.IGNORECASE,
)
# In a broken file, whatever could be one; the last is any long run of letters and digits but a checksum.
_COULD_BE = re.compile(
    r"\b(?:sk-|hf_)[\w*.-]{4,}|\bbearer\s+[^\s\"',;]{4,}"
    r"|(?<!sha256: )\b(?=[a-z]*\d)(?=\d*[a-z])[a-z\d]{24,}\b",
    re.IGNORECASE,
)
_ANY_FIELD = re.compile(r"\s*(?:- *)?[\"']?[\w .-]+[\"']?\s*:(?:\s|$)")
Spans = list[tuple[int, int]]


def masked(text: str, names: Sequence[str] = ()) -> str:
    """Return a file's text in which keys are masked.

    Args:
        names: of fields that hold secrets, beside api_key.
    """
    for number, (start, end) in reversed(list(enumerate(_spans(text, names), 1))):
        text = text[:start] + _mask(number) + text[end:]
    return text


def unmasked(typed: str, original: str, names: Sequence[str] = ()) -> str:
    """Return what was typed over the masked text of a file, with what is masked put back as it stood there.

    Raises:
        ConfigError: a mask stands for nothing, or for a key that would get to another place or address by this.
    """
    hidden = {_mask(number): original[start:end] for number, (start, end) in enumerate(_spans(original, names), 1)}
    unknown = next((found[0] for found in _MASKS.finditer(typed) if found[0] not in hidden), None)
    if unknown:
        raise ConfigError(f"{unknown!r} stands for no key in the file as it is now. Write the key itself.")
    text = _MASKS.sub(lambda found: hidden[found[0]], typed)
    _require_in_place(text, original, names)
    return text


def without_masks(text: str) -> str:
    """Return a masked text with nothing where the masks were: `api_key:` is a field that is not set."""
    return _MASKS.sub("", text)


def keys_in(text: str, names: Sequence[str] = ()) -> set[str]:
    """Return the keys that stand in a file's text, for redaction.note()."""
    return {value for value in _values(text, names) if len(value) >= SHORTEST_SECRET}


def literal_keys(schema: type[Parameters], parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters that hold a secret itself, not the name of the variable that does."""
    values = {name: parameters.get(name) for name in secret_names(schema)}
    return {name: str(value) for name, value in values.items() if _is_literal(value)}


def _is_literal(value: object) -> bool:
    text = "" if value is None else str(value).strip()
    return bool(text) and not _VARIABLE.fullmatch(text) and not _MASKS.fullmatch(text)


def _mask(number: int) -> str:
    return MASK if number == 1 else f"{MASK[:-1]} {number})"


def _parsed(text: str) -> YamlFile | None:
    try:
        return YamlFile.from_text(Path("model.yaml"), text)
    except ConfigError:
        return None


def _is_secret(path: Sequence[str], names: Sequence[str]) -> bool:
    return any(re.search(_KEY_FIELD, name, re.IGNORECASE) or name in names for name in path)


def _values(text: str, names: Sequence[str]) -> list[str]:
    """Return what secret fields hold: of a broken file the first long word after each."""
    file = _parsed(text)
    if file is not None:
        return [value.strip() for path, value, _ in file.texts() if _is_secret(path, names) and _is_literal(value)]
    rests = (re.split(r"[\s\"',{}\[\]]+", text[start:end].split(" #")[0]) for start, end in _fields(text, names))
    return [next((word for word in words if len(word) >= SHORTEST_SECRET), "") for words in rests]


def _spans(text: str, names: Sequence[str]) -> Spans:
    """Return where something is to be hidden, in order and without overlaps."""
    file = _parsed(text)
    found = [match.span() for match in _MASKS.finditer(text)]  # a file that holds our mask gets it back too
    if file is not None:
        found += [span for path, value, span in file.texts() if _is_secret(path, names) and _is_literal(value)]
        found += [match.span(match.lastindex or 0) for match in _SAID.finditer(text)]
    else:
        found += _fields(text, names)
        found += [match.span() for match in _COULD_BE.finditer(text)]
    for value in keys_in(text, names):
        found += [match.span() for match in re.finditer(re.escape(value), text)]
    return _merged(found)


def _fields(text: str, names: Sequence[str]) -> Spans:
    """Return the rest of every line after a secret field's name, and the lines that continue it; for a broken file."""
    named = "|".join([rf"{_KEY_FIELD}\w*", *(rf"\b{re.escape(name)}\b" for name in names)])
    field = re.compile(rf"(?:{named})[\"']?[ \t]*[:=]?[ \t]*", re.IGNORECASE)
    found: Spans = []
    at, continues = 0, False
    for line in text.splitlines(keepends=True):
        continues = continues and not _ANY_FIELD.match(line)
        name = field.search(line)
        if continues or name:
            start = 0 if continues or name is None else name.end()
            rest = line[start:].strip()
            if rest and not _ONLY_A_VARIABLE.fullmatch(rest):
                start += line[start:].index(rest)
                found.append((at + start, at + start + len(rest)))
            # A value on the next line, a block, or a text whose quote is not closed.
            continues = continues or not rest or rest[0] in "|>" or any(rest.count(mark) % 2 for mark in "\"'")
        at += len(line)
    return found


def _merged(spans: Iterable[tuple[int, int]]) -> Spans:
    merged: Spans = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _require_in_place(text: str, original: str, names: Sequence[str]) -> None:
    """A key that was masked stays in its field and goes to its address; whoever wants otherwise has to know it."""
    kept = [value for value in keys_in(original, names) if value in text]
    if _parsed(text) is None or not kept:
        return  # what cannot be read is not saved either
    others, before = _others(text, names), _others(original, names).values()
    if any(value in other and other not in before for value in kept for other in others.values()):
        raise ConfigError(f"{MASK!r} can only stay where it was. Write a text of your own here.")
    base = others.get(("parameters", "api_base"))
    is_as_before = base in re.split(r"[\s\"',{}]+", original) if base else "api_base" not in original
    if not is_as_before:
        raise ConfigError("The key in the file is for the address there. To change api_base, write the key anew.")


def _others(text: str, names: Sequence[str]) -> dict[tuple[str, ...], str]:
    """Return what fields hold that are no secret ones; nothing of a broken file."""
    file = _parsed(text)
    return {path: value for path, value, _ in file.texts() if not _is_secret(path, names)} if file else {}
