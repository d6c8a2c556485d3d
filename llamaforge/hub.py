"""Models of the Hugging Face Hub: what a path means there, what is on this disk already, and fetching the rest.

What is here is found without huggingface_hub and without a request; hub_download.py moves the bytes.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import BackendMissing, ModelError, ModelFileError
from .memory import format_bytes

VERSION = "2.4.0"
MOST_NAMED = 8
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_PATH = re.compile(rf"({_PART}/{_PART})(?:/(.+))?", re.DOTALL)
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,200}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE | re.DOTALL)
_FILE_ENDINGS = (".gguf", ".bin", ".safetensors", ".git")  # in no name of a repository, as are these two:
_NO_REPOSITORY = ("--", "..")

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes in all (0 as long as that is unknown); may raise to give up."""
Choice = Callable[[Mapping[str, int]], list[str]]
"""Chooses among a repository's files, given with their sizes; raises ModelFileError where it cannot."""


@dataclass(frozen=True, slots=True)
class HubPath:
    """A repository of the Hub; `file` is a name or a pattern of files in it, "" for none in particular."""

    repo: str
    file: str = ""


def parse(path: str) -> HubPath | None:
    """Return what `owner/name` or `owner/name/file-*.gguf` means on the Hub; None for what is or must be on disk."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    repo, file = match[1], match[2] or ""
    no_repository = repo.lower().endswith(_FILE_ENDINGS) or any(no in repo for no in _NO_REPOSITORY)
    if no_repository or (file and not is_pattern(file)) or os.path.exists(path) or os.path.exists(repo):
        return None
    return HubPath(repo, file)


def is_pattern(text: str) -> bool:
    """Tell whether a text can be the name or pattern of a file in a repository."""
    parts = text.split("/")
    return len(text) <= 255 and text.isprintable() and "\\" not in text and not {"", ".", ".."} & set(parts)


def require_package() -> None:
    """Raise BackendMissing unless huggingface_hub is installed."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise BackendMissing(
            "Models of the Hugging Face Hub need the package huggingface_hub, which is not installed. "
            f'Install it and start again: pip install "huggingface_hub=={VERSION}"'
        )


def fetch(
    hub_path: HubPath,
    *,
    allow: Sequence[str],
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Path:
    """Return a folder with the repository's files, of its top folder, that match one of `allow`, fetched if need be.

    Raises:
        BackendMissing: huggingface_hub is not installed.
        ModelError: the repository cannot be had; says why and what to do.
    """

    def matching(files: Mapping[str, int]) -> list[str]:
        top = [name for name in sorted(files) if "/" not in name]
        names = [name for name in top if any(fnmatch.fnmatchcase(name, pattern) for pattern in allow)]
        if not names:
            raise ModelFileError(f"{hub_path.repo} has none of the files that this backend reads. Choose another.")
        return names

    return _fetch(hub_path.repo, matching, revision or "main", cache_dir, on_progress)[0]


def fetch_gguf(hub_path: HubPath, *, on_progress: Progress = lambda done, total: None) -> Path:
    """Return the GGUF file that a path means, of a split model the first part; all parts are fetched.

    A file that is named without a wildcard and is here already is taken without a request. See fetch.
    """
    here = cached_gguf(hub_path)
    if here is not None and hub_path.file and not set(hub_path.file) & set("*?["):
        return here
    folder, names = _fetch(hub_path.repo, lambda files: choose_gguf(hub_path, files), "main", None, on_progress)
    return folder / names[0]


def cached_gguf(hub_path: HubPath) -> Path | None:
    """Return the GGUF file that a path means if it is here already, with all of its parts; makes no request."""
    folder = snapshot(hub_path.repo)
    try:
        return folder / choose_gguf(hub_path, files_in(folder))[0] if folder is not None else None
    except ModelFileError:
        return None


def choose_gguf(hub_path: HubPath, files: Mapping[str, int]) -> list[str]:
    """Return the one GGUF file that a path means, or all parts of the one split model.

    Raises:
        ModelFileError: there is none, or more than one; names up to eight with their sizes.
    """
    models: dict[str, list[str]] = {}
    for name in sorted(files):
        if name.lower().endswith(".gguf") and ("mmproj" in name.lower()) == ("mmproj" in hub_path.file.lower()):
            split = _SPLIT.fullmatch(name)
            models.setdefault(f"{split[1]} of {split[3]}" if split else name, []).append(name)
    chosen = [names for names in models.values() if any(_matches(name, hub_path.file) for name in names)]
    if len(chosen) != 1:
        raise ModelFileError(_not_one(hub_path, chosen or list(models.values()), len(chosen), files))
    (names,) = chosen
    split = _SPLIT.fullmatch(names[0])
    if split and len(names) != int(split[3]):
        raise ModelFileError(f"{hub_path.repo} has only {len(names)} of the {int(split[3])} parts of {names[0]}.")
    return names


def is_later_part(name: str) -> bool:
    """Tell whether a file is a part of a split model, but not the first."""
    split = _SPLIT.fullmatch(name)
    return split is not None and int(split[2]) != 1


def _matches(name: str, pattern: str) -> bool:
    return not pattern or fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(Path(name).name, pattern)


def _not_one(hub_path: HubPath, models: list[list[str]], count: int, files: Mapping[str, int]) -> str:
    if not models:
        return f"{hub_path.repo} has no .gguf file. Choose a repository that has, or the huggingface backend."
    named = [f"{names[0]} ({format_bytes(sum(files[name] for name in names))})" for names in models[:MOST_NAMED]]
    rest = f" and {len(models) - MOST_NAMED} more" if len(models) > MOST_NAMED else ""
    choices = f"{', '.join(named)}{rest}. Add the line file: with one of these names."
    if count:
        what = f"{hub_path.file!r} matches {count} models" if hub_path.file else f"There are {count} models"
        return f"{what} in {hub_path.repo}: {choices}"
    return f"{hub_path.repo} has no {hub_path.file!r}. It has: {choices}"


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Return where files of the Hub are kept, by the same variables that huggingface_hub goes by."""
    get = os.environ.get
    home = get("HF_HOME") or os.path.join(get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    chosen = cache_dir or get("HF_HUB_CACHE") or get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expandvars(chosen)).expanduser().absolute()


def repo_folder(repo: str, cache_dir: str | Path | None = None) -> Path:
    return cache_folder(cache_dir) / f"models--{repo.replace('/', '--')}"


def snapshot(repo: str, revision: str = "main", cache_dir: str | Path | None = None) -> Path | None:
    """Return the folder of what is here of a repository; None where nothing is. Makes no request."""
    folder = repo_folder(repo, cache_dir)
    try:
        commit = revision if _COMMIT.fullmatch(revision) else (folder / "refs" / revision).read_text("utf-8").strip()
        found = folder / "snapshots" / commit
        return found if _COMMIT.fullmatch(commit) and found.is_dir() else None
    except (OSError, ValueError):
        return None


def files_in(folder: Path) -> dict[str, int]:
    """Return the files of a snapshot that are wholly here, with their sizes."""
    found = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in found if file.is_file()}


def is_offline() -> bool:
    """Tell whether the person has forbidden requests to the Hub."""
    asked = (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").upper()
    return asked in ("1", "ON", "YES", "TRUE")


def _fetch(
    repo: str, choose: Choice, revision: str, cache_dir: str | Path | None, on_progress: Progress
) -> tuple[Path, list[str]]:
    """Return the snapshot's folder and the chosen files; where the Hub cannot be asked, what is here must do."""
    require_package()
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise ModelFileError(f"revision {revision!r} is no branch, tag or commit. Choose another.")
    from .hub_download import Download  # imports huggingface_hub

    here = snapshot(repo, revision, cache_dir)
    download = Download(repo, revision, repo_folder(repo, cache_dir), on_progress)
    try:
        if is_offline():
            raise ModelError(f"HF_HUB_OFFLINE is set, so {repo} cannot be fetched.{already_here(repo, cache_dir)}")
        download.list_files()
    except ModelError as error:
        if here is None or download.given_up.is_set():
            raise
        try:
            return here, choose(files_in(here))
        except ModelFileError:
            raise error from None
    names = choose(download.sizes)
    return download.fetch(names), names


def already_here(repo: str, cache_dir: str | Path | None = None) -> str:
    """Return a sentence on what of the Hub can be loaded without it; "" where nothing can."""
    folder = snapshot(repo, cache_dir=cache_dir)
    names = [name for name in files_in(folder) if name.lower().endswith(".gguf")] if folder is not None else []
    names = names or list(_repos_here(cache_folder(cache_dir)))
    return f" Already here: {', '.join(sorted(names)[:MOST_NAMED])}." if names else ""


def _repos_here(cache: Path) -> Iterable[str]:
    for folder in cache.glob("models--*--*"):
        if any(folder.glob("snapshots/*/*")):
            yield folder.name.removeprefix("models--").replace("--", "/", 1)
