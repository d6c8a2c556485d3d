"""Moves files of one repository from the Hugging Face Hub into its cache, so that it can be stopped and goes on later.

huggingface_hub gives the requests, their headers and the cache's layout. The bytes are received here: its own
downloads hear of nothing between two pieces of 10 MB, and throw away what is here when they are ended.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import filelock
from huggingface_hub import HfApi, errors, hf_hub_download, hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from .background import in_background
from .errors import LlamaForgeError, ModelError, ModelFileError
from .hub import Progress, already_here, is_pattern
from .memory import format_bytes

T = TypeVar("T")

PAUSE = 1.0  # seconds between two attempts
ATTEMPTS = 5  # that may bring nothing new, one after another
SILENCE = 10.0  # seconds without a byte after which a connection is given up
LARGEST = 50 * 10**9  # the Hub sends no larger file over plain HTTP
_ETAG = re.compile(r"[0-9a-f]{40,64}")
# That of httpx or of httpx2, by huggingface_hub's version.
TRANSPORT_ERROR: type[Exception] = errors.HfHubHTTPError.__mro__[1]


class GivenUp(Exception):
    """Nobody waits for this download any more."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the Hub lists it; `etag` names its content, which for large files is the SHA-256."""

    name: str
    size: int
    etag: str


class Download:
    """Lists and fetches the files of one revision.

    Args:
        folder: of the repository, in the cache.
        on_progress: called in the caller's thread; what it raises ends the download.
    """

    def __init__(self, repo: str, revision: str, folder: Path, on_progress: Progress) -> None:
        self.given_up = threading.Event()
        self._repo, self._revision, self._folder = repo, revision, folder
        self._on_progress = on_progress
        self._endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None  # read anew: not that of the import
        self._files: dict[str, RemoteFile] = {}
        self._commit = ""
        self._done = 0
        self._total = 0

    @property
    def sizes(self) -> dict[str, int]:
        return {file.name: file.size for file in self._files.values()}

    def list_files(self) -> None:
        """Ask the Hub which files the revision has."""
        self._run(self._list_files)

    def fetch(self, names: list[str]) -> Path:
        """Return the folder that holds the files, and in it all of them or, where this fails, none that was not."""
        snapshot = self._folder / "snapshots" / self._commit
        missing = [self._files[name] for name in names if not (snapshot / name).is_file()]
        self._run(lambda: self._fetch(missing))
        return snapshot

    def _run(self, work: Callable[[], T]) -> T:
        def poll() -> None:
            try:
                self._on_progress(self._done, self._total)
            except BaseException:
                self.given_up.set()
                raise

        with self._in_sentences():
            return in_background(work, poll)

    def _list_files(self) -> None:
        try:
            api = HfApi(endpoint=self._endpoint)
            info = api.model_info(self._repo, revision=self._revision, files_metadata=True, timeout=SILENCE)
            files = [RemoteFile(s.rfilename, *_size_and_etag(s)) for s in info.siblings or ()]
            commit = str(info.sha)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, errors.HfHubHTTPError):
                raise
            raise ModelError(
                "What answers in the Hub's place is not the Hub. Check HF_ENDPOINT, or log in to this network.",
                details=type(error).__name__,
            ) from error
        if not re.fullmatch("[0-9a-f]{40}", commit):
            raise ModelError(f"The Hub does not say which commit {self._revision!r} of {self._repo} is.")
        self._files = {file.name: file for file in files if is_pattern(file.name)}
        self._commit = commit

    def _fetch(self, files: list[RemoteFile]) -> None:
        self._require_room(files)
        self._total = sum(file.size for file in files)
        finished = 0
        for file in files:
            if file.etag and file.size <= LARGEST:
                self._fetch_content(file, finished)
            finished = self._done = finished + file.size
        for file in files:  # their names come last, so that what has a name is whole
            self._leave_if_given_up()
            hf_hub_download(
                self._repo,
                file.name,
                revision=self._commit,
                cache_dir=self._folder.parent,
                endpoint=self._endpoint,
                etag_timeout=SILENCE,
            )
        self._note_revision()

    def _require_room(self, files: list[RemoteFile]) -> None:
        have = (_size(place) for file in files for place in (self._content(file), self._partial(file)) if file.etag)
        needed = sum(file.size for file in files) - sum(have)
        existing = next(place for place in (self._folder, *self._folder.parents) if place.is_dir())
        free = shutil.disk_usage(existing).free
        if needed > free:
            raise ModelError(
                f"The disk is full: this model needs {format_bytes(needed)}, {format_bytes(free)} are free. "
                "Delete what you no longer need, or choose a smaller model."
            )

    def _content(self, file: RemoteFile) -> Path:
        return self._folder / "blobs" / file.etag

    def _partial(self, file: RemoteFile) -> Path:
        return self._folder / "blobs" / f"{file.etag}.llamaforge.incomplete"

    def _fetch_content(self, file: RemoteFile, finished: int) -> None:
        content, partial = self._content(file), self._partial(file)
        content.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(file):
            if content.exists():
                return
            resumed = _size(partial) > 0
            self._receive_all(file, partial, finished)
            # What an earlier process left may have been written badly: a computer can lose its power.
            if resumed and len(file.etag) == 64 and _sha256(partial) != file.etag:
                partial.unlink()
                self._receive_all(file, partial, finished)
            partial.replace(content)

    @contextlib.contextmanager
    def _lock(self, file: RemoteFile) -> Iterator[None]:
        """Two programs must not write to one file; the lock is the one that huggingface_hub takes."""
        folder = self._folder.parent / ".locks" / self._folder.name
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f"{file.etag}.lock")
        while True:
            self._leave_if_given_up()
            with contextlib.suppress(filelock.Timeout):
                lock.acquire(timeout=0.2)
                break
        try:
            yield
        finally:
            lock.release()

    def _receive_all(self, file: RemoteFile, partial: Path, finished: int) -> None:
        fruitless = 0
        while not partial.exists() or _size(partial) != file.size:
            before = _size(partial)
            try:
                self._receive(file, partial, finished)
                fruitless += 1  # forgiven below, unless the server closed too early
            except TRANSPORT_ERROR as error:
                if not _is_passing(error):
                    raise
                fruitless += 1
                if fruitless > ATTEMPTS:
                    raise
                self.given_up.wait(PAUSE)
            if _size(partial) > before:
                fruitless = 0
            if fruitless > ATTEMPTS or _size(partial) > file.size:
                partial.unlink(missing_ok=True)
                raise ModelError(f"The Hub sent a {file.name} of the wrong size. Load the model again later.")

    def _receive(self, file: RemoteFile, partial: Path, finished: int) -> None:
        self._leave_if_given_up()
        have = _size(partial)
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        url = hf_hub_url(self._repo, file.name, revision=self._commit, endpoint=self._endpoint)
        with get_session().stream("GET", url, headers=headers, timeout=SILENCE) as response:
            hf_raise_for_status(response)
            if response.status_code != 206:
                have = 0  # the server sends it from its beginning
            with partial.open("ab" if have else "wb") as out:
                for piece in response.iter_raw():
                    self._leave_if_given_up()
                    out.write(piece)
                    have += len(piece)
                    self._done = finished + min(have, file.size)
                    if have > file.size:
                        return

    def _leave_if_given_up(self) -> None:
        if self.given_up.is_set():
            raise GivenUp

    def _note_revision(self) -> None:
        """Write which commit the revision is, so that it is found again without the Hub."""
        if self._revision == self._commit:
            return
        ref = self._folder / "refs" / self._revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        new = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        new.write_text(self._commit, "utf-8")
        new.replace(ref)

    @contextlib.contextmanager
    def _in_sentences(self) -> Iterator[None]:
        """Turn what huggingface_hub and the system raise into errors of ours; none shows an address or a token."""
        try:
            yield
        except LlamaForgeError:
            raise
        except (TRANSPORT_ERROR, OSError, errors.EntryNotFoundError) as error:
            kind = ModelFileError if isinstance(error, _MISSING) else ModelError
            response = getattr(error, "response", None)
            status = "" if response is None else f" {response.status_code}"
            raise kind(self._sentence(error), details=f"{type(error).__name__}{status}") from error

    def _sentence(self, error: Exception) -> str:
        repo = self._repo
        for kind, text in _SENTENCES:
            if isinstance(error, kind):
                return text.format(repo=repo, revision=self._revision)
        if isinstance(error, errors.HfHubHTTPError):
            return _status_sentence(repo, error.response.status_code)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"The disk is full: the download of {repo} stopped at {self._share()}. {_GOES_ON}"
        if isinstance(error, OSError) and not isinstance(error, _OFFLINE):
            return f"The download of {repo} cannot be saved: {error.strerror or type(error).__name__}. Check HF_HOME."
        if self._done:
            return f"The download of {repo} was interrupted at {self._share()}. {_GOES_ON}"
        here = already_here(repo, self._folder.parent)
        return f"The Hugging Face Hub cannot be reached. Check the internet connection and try again.{here}"

    def _share(self) -> str:
        return f"{format_bytes(self._done)} of {format_bytes(self._total)}"


_GOES_ON = "Load the model again; it goes on from there."
_OFFLINE = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)
_MISSING = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError)
_SENTENCES: tuple[tuple[type[Exception], str], ...] = (
    (
        errors.GatedRepoError,
        "{repo} asks for your consent. Accept its licence on its page at huggingface.co and set HF_TOKEN.",
    ),
    (
        errors.RepositoryNotFoundError,
        "There is no file or folder {repo!r} on this computer, and no such repository on the Hugging Face Hub, or it "
        "is private. Check the name; for a private one set HF_TOKEN.",
    ),
    (errors.RevisionNotFoundError, "{repo} has no revision {revision!r}. Choose another branch, tag or commit."),
    (errors.RemoteEntryNotFoundError, "{repo} lists a file that the Hub does not have. Try again later."),
)


def _status_sentence(repo: str, status: int) -> str:
    if status in (401, 403):
        return f"The Hugging Face Hub refuses access to {repo}. Check HF_TOKEN, and what that token may read."
    if status == 429:
        return "The Hugging Face Hub has had too many requests from here. Try again in a few minutes."
    return f"The Hugging Face Hub answered with error {status}. Try again later."


def _is_passing(error: Exception) -> bool:
    """Tell whether trying again may help: a broken connection, or a Hub that is busy."""
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 503
    return status >= 500 or status in (408, 429)


def _size_and_etag(sibling: Any) -> tuple[int, str]:
    """Return a listed file's size and the name that its content has in the cache; "" where that is unknown."""
    size = sibling.lfs.size if sibling.lfs is not None else sibling.size
    etag = str(sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id)
    known = isinstance(size, int) and size >= 0 and _ETAG.fullmatch(etag)
    return (size, etag) if known else (0, "")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
