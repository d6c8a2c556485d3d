"""One YAML file: bounded safe parse, line numbers, comment-keeping edits, crash-safe save.

It must not know what the settings mean. Every problem is a ConfigError that names the file and, where known, the line.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from .errors import CannotSplice, ConfigConflict, ConfigError

_MAX_BYTES, _MAX_DEPTH, _MAX_NODES = 256 * 1024, 32, 20_000
_LOCK_SECONDS = 5.0
_LAYOUT = "This file's layout cannot be edited here without losing comments. Save as copy, or edit the file by hand."
_SAVE_PROBLEMS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "the disk is full. Free some space and save again."),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "no permission to write here. Check the rights of the folder."),
    errno.EROFS: "the disk is read-only. Nothing was changed.",
}
_TAGS = "Tags like '!!python/…' are not allowed. Put a text that begins with '!' in quotes."
_ANCHORS = "Anchors and aliases are not allowed. Put a text that begins with '&' or '*' in quotes."
_TOO_DEEP = f"nested too deeply (limit {_MAX_DEPTH})."
_SYNTAX_PROBLEMS = (  # PyYAML's words, ours, and whether to point at where the unfinished thing begins
    ("while scanning a quoted scalar", "a quote is not closed.", True),
    ("a double-quoted scalar", "a backslash in double quotes must be doubled. Use single quotes instead.", False),
    ("could not find expected ':'", "a ':' is missing after this key.", True),
    ("mapping values are not allowed", "a ':' is not expected here. Check the indentation and the quotes.", False),
    ("while parsing a flow", "this '[' or '{' is not closed, or a comma is missing.", True),
    ("expected <block end>", "this does not fit the lines above. Check the indentation and the quotes.", False),
    ("expected a single document", "only one document is allowed. Delete the '---' here.", False),
    (" tag", _TAGS, False),
    ("while scanning an a", _ANCHORS, False),
    ("'\\t' that cannot start", "a tab is used here. YAML needs spaces.", False),
    ("cannot start any token", "this character cannot begin a value. Put the value in quotes.", False),
)
# YAML 1.2's plain values, so that names such as `on`, `12:30`, `007` and `2024-01-01` stay texts.
_PLAIN_VALUES = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+|0b[01]+)", list("-+0123456789")),
    ("float", r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
)


class _Refused(yaml.MarkedYAMLError):
    """YAML that is well formed but not allowed in a config file."""


def _forbid(wrong: bool, problem: str, mark: yaml.Mark) -> None:
    if wrong:
        raise _Refused(problem=problem, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    """PyYAML's pure-Python loader, refusing what could exhaust or surprise us before anything is built of it."""

    yaml_implicit_resolvers: dict[str, Any] = {}
    depth = nodes = 0

    def fetch_flow_collection_start(self, token_class: type[yaml.Token]) -> None:
        # The scanner looks ahead 1,024 characters, and its time grows with the square of the open brackets.
        _forbid(self.flow_level >= _MAX_DEPTH, _TOO_DEEP, self.get_mark())
        super().fetch_flow_collection_start(token_class)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        _forbid(event.anchor is not None, _ANCHORS, mark)
        _forbid(event.tag is not None, _TAGS, mark)
        _forbid(self.depth == _MAX_DEPTH, _TOO_DEEP, mark)
        _forbid(self.nodes == _MAX_NODES, f"there are more than {_MAX_NODES:,} values. Is it the right file?", mark)
        self.nodes += 1
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def plain(self, node: yaml.Node) -> Any:
        mark = node.start_mark
        if isinstance(node, yaml.ScalarNode):
            _forbid(bool(re.search("[\0\ud800-\udfff]", node.value)), "this text holds a forbidden character.", mark)
            _forbid(node.tag.endswith(":int") and len(node.value) > 70, "this number is too large.", mark)
            return self.construct_object(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item) for item in node.value]
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, mark, merge = key.value, key.start_mark, key.value == "<<" and not key.style
            _forbid(key.tag != self.DEFAULT_SCALAR_TAG, "a key must be a text. Put it in quotes.", mark)
            _forbid(merge, "merge keys ('<<') are not allowed. Write the settings out.", mark)
            _forbid(name in values, f"the key {name[:60]!r} is already on line {lines.get(name)}. Delete one.", mark)
            values[name], lines[name] = self.plain(value), mark.line + 1
        return values


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, without aliases and with texts of many lines as `|` blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Line ends that a splice could lose are written as escapes.
        style = '"' if re.search("[\x85\u2028\u2029]|(\\A|\n)\n\\Z", data) else "|" if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)
for _kind, _pattern, _first in _PLAIN_VALUES:
    # The dumper keeps PyYAML's rules too: it quotes what another reader would take for a bool or a date.
    for _user in (_Loader, _Dumper):
        _user.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern})\Z", re.ASCII), _first)


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A YAML file as it was read; editing and saving return a new one."""

    path: Path
    text: str = field(repr=False)
    data: dict[str, Any] = field(repr=False)
    digest: str | None  # sha256 of the bytes on disk, None while it is not on disk
    _root: Any = field(repr=False, compare=False)

    @classmethod
    def read(cls, path: Path) -> YamlFile:
        """Read and check a file."""
        raw = _read_bytes(path)
        return cls._parsed(path, raw, hashlib.sha256(raw).hexdigest())

    @classmethod
    def new(cls, path: Path, data: Mapping[str, Any]) -> YamlFile:
        """Make a file that is not on disk yet."""
        return cls.from_text(path, "".join(f"{line}\n" for line in _dump(dict(data))) if data else "")

    @classmethod
    def from_text(cls, path: Path, text: str) -> YamlFile:
        """Check a text as if it were the file; it counts as not on disk yet."""
        return cls._parsed(path, text.encode("utf-8", "surrogatepass"), None)

    @classmethod
    def _parsed(cls, path: Path, raw: bytes, digest: str | None) -> YamlFile:
        _check_size(path, len(raw))
        try:
            text = raw.decode("utf-8")
            loader = _Loader(text)
            root: Any = loader.get_single_node()
            if root is None or (root.tag.endswith(":null") and not root.value):
                return cls(path, text, {}, digest, None)
            _forbid(not isinstance(root, yaml.MappingNode), "the file must hold 'name: value' lines.", root.start_mark)
            return cls(path, text, loader.plain(root), digest, root)
        except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, RecursionError) as exc:
            problem, line, column = _explain(exc, raw)
            raise ConfigError(problem, file=path, line=line, column=column) from exc

    def line_of(self, *keys: str) -> int | None:
        """Return the line of a key, or of its nearest parent in the file; a list's items are "0", "1" and so on."""
        node, line = self._root, None
        for name in keys:
            entry = _item(node, name) if isinstance(node, yaml.SequenceNode) else _find(node, name)
            if entry is None:
                break
            line, node = entry[0].start_mark.line + 1, entry[1]
        return line

    def texts(self) -> Iterator[tuple[tuple[str, ...], str, tuple[int, int]]]:
        """Yield every single value: the names that lead to it, what it is, and where it stands in the text."""
        yield from _texts((), self._root, self.text)

    def error(self, problem: str, *keys: str) -> ConfigError:
        """Return an error that is placed at a key of this file."""
        return ConfigError(problem, file=self.path, line=self.line_of(*keys))

    def edited(self, changes: Mapping[tuple[str, ...], Any]) -> YamlFile:
        """Return this file with values set, or deleted where they are None; all else keeps its bytes."""
        edited = self
        for keys, value in changes.items():
            try:
                edited = edited._with_entry(keys, value)
            except (ConfigError, IndexError) as exc:  # where line ends are mixed, PyYAML counts more lines
                raise CannotSplice(_LAYOUT, file=self.path, line=self.line_of(*keys)) from exc
        return edited

    def _with_entry(self, keys: Sequence[str], value: Any) -> YamlFile:
        wanted = _put(self.data, keys, value)
        # repr tells 1 from 1.0 and from True, finds NaN equal to itself and sees the order.
        if repr(wanted) == repr(self.data):
            return self
        body = self.text.removeprefix("\ufeff")
        newline = "\r\n" if "\r\n" in body else "\n"
        lines = body.split(newline)
        if self._root is None:
            at = len(lines) - (lines[-1] == "")
            lines[at:at] = _dump(wanted)
        elif self._root.flow_style and self._root.start_mark.line == self._root.end_mark.line:
            flow, at = _dump(wanted, flow=bool(self._root.value)), self._root.start_mark.line
            flow[-1] += lines[at][self._root.end_mark.column :]
            lines[at : at + 1] = flow
        else:
            _splice(lines, self._root, keys, wanted)
        text = self.text[: len(self.text) - len(body)] + newline.join(lines)
        edited = replace(self.from_text(self.path, text), digest=self.digest)
        # A deleted value takes the comment behind it along.
        lost = value is not None and [c for _, c in _comments(self.text)] != [c for _, c in _comments(text)]
        if lost or repr(edited.data) != repr(wanted):
            raise CannotSplice(_LAYOUT)
        return edited

    def save(self, *, overwrite: bool = False) -> YamlFile:
        """Write the file in one step; raise ConfigConflict where the disk no longer holds what was read."""
        raw = self.text.encode("utf-8")
        try:
            target = Path(os.path.realpath(self.path))
            target.parent.mkdir(parents=True, exist_ok=True)
            lock = target.with_name(f".{target.name}.lock")
            with FileLock(lock, timeout=_LOCK_SECONDS):
                try:
                    self._check_disk(target, overwrite)
                    _replace_file(target, raw)
                finally:
                    # Safe while it is held: filelock tries again when the file that it locked has lost its name.
                    with suppress(OSError):
                        lock.unlink()
        except OSError as exc:
            problem = _SAVE_PROBLEMS.get(exc.errno or 0, f"{exc.strerror or exc}. The file is as it was before.")
            if isinstance(exc, Timeout):
                problem = "another program is saving this file. Wait a moment and save again."
            raise ConfigError(f"Could not save: {problem}", file=self.path) from exc
        return replace(self, digest=hashlib.sha256(raw).hexdigest())

    def _check_disk(self, target: Path, overwrite: bool) -> None:
        on_disk = hashlib.sha256(_read_bytes(target)).hexdigest() if target.exists() else None
        if overwrite or on_disk == self.digest:
            return
        what = "deleted" if on_disk is None else "created" if self.digest is None else "changed"
        when = time.strftime(" at %H:%M", time.localtime(target.stat().st_mtime)) if on_disk else ""
        raise ConfigConflict(f"This file was {what} in another window{when}. Nothing was saved.", file=self.path)


def read_raw(path: Path) -> tuple[str, str]:
    """Return the text of a file, be it valid YAML or not, and the digest of its bytes."""
    raw = _read_bytes(path)
    return raw.decode("utf-8", "replace"), hashlib.sha256(raw).hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        _check_size(path, path.stat().st_size)
        if not path.is_file():  # reading a pipe or a device may never end
            raise ConfigError("this is a folder or a device, not a file.", file=path)
        with path.open("rb") as file:
            return file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"the file cannot be read: {getattr(exc, 'strerror', None) or exc}.", file=path) from exc


def _check_size(path: Path, size: int) -> None:
    if size > _MAX_BYTES:
        shown = f"{-(-size // 1024)} KB" if size < 1024**2 else f"{size / 1024**2:.0f} MB"
        raise ConfigError(f"the file is {shown}; the limit is 256 KB. Is it the right file?", file=path)


def _replace_file(target: Path, raw: bytes) -> None:
    handle, temp = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            with suppress(FileNotFoundError):
                shutil.copymode(target, temp)
            os.fsync(handle)
        os.replace(temp, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temp)
        raise
    # The new name then outlasts a power cut. Windows and some network disks cannot; the file is whole even so.
    with suppress(OSError):
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _explain(exc: Exception, raw: bytes) -> tuple[str, int | None, int | None]:
    """Return what is wrong in plain words, its line and its column."""
    if isinstance(exc, UnicodeDecodeError):
        return "this is not UTF-8 text. Save the file as UTF-8.", raw.count(b"\n", 0, exc.start) + 1, None
    text = raw.decode("utf-8")
    if isinstance(exc, yaml.reader.ReaderError):
        problem = f"the character U+{exc.character:04X} is not allowed. Delete it."
        return problem, text.count("\n", 0, exc.position) + 1, None
    if not isinstance(exc, yaml.MarkedYAMLError) or exc.problem_mark is None:
        return "this is not valid YAML.", None, None
    mark, said = exc.problem_mark, f"{exc.context} {exc.problem}"
    problem = f"this is not valid YAML: {exc.problem}."
    if isinstance(exc, _Refused):
        problem = exc.problem or ""
    elif re.match(r" *\t", "".join(text.splitlines()[mark.line : mark.line + 1])):
        problem = "a tab is used for indentation. YAML needs spaces."
    elif "expected <block end>" in said and text[mark.index - 1] in "'\"":
        problem = "a quote is not closed, here or on a line above."
    else:
        for words, ours, at_begin in _SYNTAX_PROBLEMS:
            if words in said:
                problem, mark = ours, (exc.context_mark or mark) if at_begin else mark
                break
    return problem, mark.line + 1, mark.column + 1


def _dump(data: dict[str, Any], *, indent: int = 0, flow: bool = False) -> list[str]:
    options: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": _MAX_BYTES}
    lines = str(yaml.dump(data, Dumper=_Dumper, default_flow_style=flow, **options)).splitlines()
    return [" " * indent + line if line else "" for line in lines]


def _find(node: yaml.Node | None, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    entries = node.value if isinstance(node, yaml.MappingNode) else []
    return next((entry for entry in entries if entry[0].value == name), None)


def _item(node: yaml.SequenceNode, place: str) -> tuple[yaml.Node, yaml.Node] | None:
    return next(((item, item) for number, item in enumerate(node.value) if str(number) == place), None)


def _texts(
    names: tuple[str, ...], node: yaml.Node | None, text: str
) -> Iterator[tuple[tuple[str, ...], str, tuple[int, int]]]:
    if isinstance(node, yaml.ScalarNode):
        start, end = node.start_mark.index, node.end_mark.index
        shown = text[start:end].rstrip()  # a block of lines ends where the next thing begins
        yield names, "" if node.tag.endswith(":null") else node.value, (start, start + len(shown))
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _texts(names, item, text)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _texts((*names, key.value), value, text)


def _put(data: dict[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """Return nested values with one set; None deletes it, and its parent where that is then empty."""
    name, *rest = keys
    if rest:
        inner = {} if data.get(name) is None else data[name]
        if not isinstance(inner, dict):
            raise CannotSplice(_LAYOUT)
        if value is None and not inner:
            return data
        value = _put(inner, rest, value) or None
    return {key: kept for key, kept in {**data, name: value}.items() if key != name or value is not None}


def _splice(lines: list[str], node: yaml.Node, keys: Sequence[str], wanted: dict[str, Any]) -> None:
    """Change the lines of the entry at `keys` to what it is in `wanted`; the caller checks what comes of it."""
    name, *rest = keys
    entry = _find(node, name)
    if entry is None:
        at = _last_line(lines, node) + 1
        lines[at:at] = _dump({name: wanted[name]}, indent=node.start_mark.column)
    elif name not in wanted:  # comments that have a line of their own stay
        first, last = entry[0].start_mark.line, _last_line(lines, entry[1])
        comments = [line for line, text in _comments("\n".join(lines)) if lines[line].strip() == text]
        lines[first : last + 1] = [lines[line] for line in comments if first <= line <= last]
    elif rest and isinstance(entry[1], yaml.MappingNode) and entry[1].end_mark.line > entry[0].end_mark.line:
        _splice(lines, entry[1], rest, wanted[name])
    else:
        _replace(lines, *entry, wanted[name])


def _replace(lines: list[str], key: yaml.Node, old: yaml.Node, value: Any) -> None:
    """Put a value in the place of another: behind the same key, before the same comment."""
    first, last = key.end_mark.line, _last_line(lines, old)
    line = lines[first]
    colon = line.find(":", key.end_mark.column) + 1
    gap, rest = " ", re.findall(r"(?:\s{1,40}#.*)?$", line[colon:])[0]
    if old.start_mark.line == first and getattr(old, "style", None) not in ("|", ">"):
        gap, rest = line[colon : old.start_mark.column] or " ", lines[last][old.end_mark.column :]
    head, *block = _dump({"k": value}, indent=key.start_mark.column)
    head = head.strip().removeprefix("k:").strip()
    if isinstance(old, yaml.CollectionNode) and old.flow_style and old.value:
        head, block = _dump({"k": value}, flow=True)[0][len("{k: ") : -1], []
    lines[first : last + 1] = [line[:colon] + (gap + head if head else "") + rest, *block]


def _last_line(lines: list[str], node: yaml.Node) -> int:
    """Return the last line of a value; PyYAML ends a block only behind the comments that follow it."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    line = int(node.end_mark.line) - (node.end_mark.column == 0)
    while not lines[line].strip():
        line -= 1
    return line


def _comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of every comment: what begins with '#' between two tokens or behind a block's '|'."""
    end = first = 0
    for token in yaml.scan(text, _Loader):
        stop = token.start_mark.index
        if isinstance(token, yaml.ScalarToken) and token.style in ("|", ">"):
            stop = text.find("\n", stop)
        for line, gap in enumerate(text[end:stop].split("\n"), first):
            if "#" in gap:
                yield line, gap[gap.index("#") :].strip()
        end, first = token.end_mark.index, token.end_mark.line
