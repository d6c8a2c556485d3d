"""Pictures for llama.cpp: the projector file of a model, and what llama.cpp's mtmd library makes of a picture.

mtmd is given pixels and never a file: what its own reader does not know, it would hand to ffprobe.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import hub
from ..errors import BackendMissing, GenerationError, ModelError, ModelFileError
from ..images import pixels
from ..types import Image
from .llama_cpp_files import fetched_file, header_of
from .llama_cpp_native import VERSION, engine_log

if TYPE_CHECKING:
    from llama_cpp import Llama

NONE = "none"  # the value of mmproj that leaves a projector beside the model alone
NOWHERE = -1  # in the cache, a token that no prompt has
CHOOSE = "Choose the mmproj file of this model, or write mmproj: none."

# What in a projector's name does not tell which model it is for.
_GENERAL = re.compile(r"(?<![a-z0-9])(?:mmproj|model|vision|b?f16|f32|i?q\d\w*)(?![a-z0-9])")


def projector_of(model: Path, stated: str | None) -> Path | None:
    """Return the projector that a model is loaded with: the stated one, else the one beside it that its name fits."""
    if stated:
        return model.parent / Path(stated).expanduser() if stated != NONE else None
    files = list(model.parent.glob("*.gguf"))
    models = [file for file in files if "mmproj" not in file.name.lower()]
    alone = (
        len({frozenset(_words(file)) for file in [model, *models]}) == 1
    )  # else a name without a model's is anybody's
    beside = [file for file in files if file not in models and (_words(file) or alone)]
    fitting = [file for file in beside if _words(file) <= _words(model) and _is_projector(file)]
    return fitting[0] if len(fitting) == 1 else None


def fetched_projector(model_path: str, model: Path, stated: str | None, on_progress: hub.Progress) -> Path | None:
    """Return projector_of; one that is stated for a model of the Hub is fetched from there if need be."""
    hub_path, file = hub.parse(model_path), projector_of(model, stated)
    if file is None or hub_path is None or not stated or file.exists():
        return file
    return fetched_file(f"{hub_path.repo}/{stated}", on_progress)


def require_projector(file: Path) -> None:
    """Raise ModelFileError unless a file is a projector for pictures."""
    header = header_of(file)
    if header.architecture != "clip":
        raise ModelFileError(f"{file.name} is no image projector ({header.kind}). {CHOOSE}")
    if header.metadata.get("clip.has_vision_encoder") is False:
        raise ModelFileError(f"{file.name} is a projector for sound only. {CHOOSE}")


def size_of(projector: Path) -> int:
    """Return the bytes of a projector; 0 for one that is not here yet."""
    return projector.stat().st_size if projector.exists() else 0


def _is_projector(file: Path) -> bool:
    try:
        require_projector(file)
    except ModelError:
        return False
    return True


def _words(file: Path) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", _GENERAL.sub(" ", file.stem.lower())))


class Projector:
    """A loaded projector, which lets one model see; in the model's memory, and to be closed before it.

    A picture stands in a prompt as one number below zero, as often as it takes tokens: the same number for the same
    picture, so that the model need not look at it again in the next chat that begins alike. Prompts may be counted in
    any thread beside the one that evaluates.

    Args:
        stopped: asked between the steps of a load and of a long look.

    Raises:
        ModelError: it is damaged, or belongs to another model.
    """

    def __init__(self, file: Path, llama: Llama, *, use_gpu: bool, stopped: Callable[[], bool]) -> None:
        self._native = mtmd_cpp = _import_mtmd()
        self._llama, self._stopped = llama, stopped
        self._known: dict[bytes, list[int]] = {}
        self._counting = threading.Lock()
        on_progress = mtmd_cpp.mtmd_progress_callback(lambda _share, _data: not stopped())
        mtmd_cpp.mtmd_helper_log_set(engine_log().callback, ctypes.c_void_p(0))
        settings = mtmd_cpp.mtmd_context_params_default()
        settings.use_gpu, settings.n_threads, settings.print_timings = use_gpu, llama.n_threads, False
        settings.progress_callback = on_progress
        context = mtmd_cpp.mtmd_init_from_file(os.fsencode(file), llama.model, settings)
        if not context:
            raise _load_error(file, gave_up=stopped())
        self._context = context
        self._free = weakref.finalize(self, mtmd_cpp.mtmd_free, context)
        self._free.atexit = False

    def close(self) -> None:
        """Give its memory back."""
        self._free()

    def tokens_of(self, image: Image) -> list[int]:
        """Return what stands for a picture in a prompt."""
        digest = hashlib.sha256(image.data).digest()
        with self._counting:
            if digest not in self._known:
                count = Picture(self._native, self._context, image).tokens
                self._known[digest] = [NOWHERE - 1 - len(self._known)] * count
            return self._known[digest]

    def evaluate(self, prompt: Sequence[int], start: int, images: Sequence[Image]) -> Iterator[int]:
        """Evaluate a prompt with these pictures from `start` on; yield how far it has come, for Stop to be heard."""
        shown = {self.tokens_of(image)[0]: image for image in images}
        place = start
        while place < len(prompt) and not self._stopped():
            number = prompt[place]
            place += self._look(number, shown[number]) if number < 0 else self._read(prompt[place:])
            yield place

    def _read(self, prompt: Sequence[int]) -> int:
        """Evaluate one piece of text and return how many tokens that was."""
        text = list(itertools.takewhile(lambda token: token >= 0, prompt[: self._llama.n_batch]))
        self._llama.eval(text)
        return len(text)

    def _look(self, number: int, image: Image) -> int:
        """Evaluate one picture and return how many tokens of the prompt that was."""
        llama, picture = self._llama, Picture(self._native, self._context, image)
        llama._ctx.kv_cache_seq_rm(-1, llama.n_tokens, -1)
        past = ctypes.c_int32(llama.n_tokens)
        batch = llama.context_params.n_ubatch  # more at a time ends the process where a picture is read non-causally
        for chunk in picture.chunks:
            if self._stopped():
                return 0
            failed = self._native.mtmd_helper_eval_chunk_single(
                self._context, llama.ctx, chunk, past.value, 0, batch, False, ctypes.byref(past)
            )
            if failed:
                raise RuntimeError(f"mtmd_helper_eval_chunk_single gave {failed}")
        # Where a picture takes fewer positions than tokens (M-RoPE), a position tells nobody what is in the cache.
        known = past.value - llama.n_tokens == picture.tokens
        llama.input_ids[llama.n_tokens : past.value] = number if known else NOWHERE
        llama.n_tokens = past.value
        return picture.tokens


class Picture:
    """What mtmd makes of one picture: the chunks that the model is given; freed with this object."""

    def __init__(self, native: Any, context: int, image: Image) -> None:
        bitmap = _bitmap(native, image)
        self._all = native.mtmd_input_chunks_init()
        weakref.finalize(self, native.mtmd_input_chunks_free, self._all).atexit = False
        # Parts, and no text with media markers in it: so no text can be taken for a picture.
        part = native.mtmd_input_part(bitmap=bitmap)
        parts = (ctypes.POINTER(native.mtmd_input_part) * 1)(ctypes.pointer(part))
        try:
            failed = native.mtmd_tokenize_from_parts(context, self._all, parts, 1, False)
        finally:
            native.mtmd_bitmap_free(bitmap)
        if failed:
            raise GenerationError("The model's projector cannot take a picture. Send another one, or a larger one.")
        count = native.mtmd_input_chunks_size(self._all)
        self.chunks: list[int] = [native.mtmd_input_chunks_get(self._all, place) for place in range(count)]
        self.tokens: int = native.mtmd_helper_get_n_tokens(self._all)


def _import_mtmd() -> Any:
    try:
        from llama_cpp import mtmd_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendMissing(
            "This llama-cpp-python was built without its library mtmd, which models need to see. Install it anew: "
            f'pip install --force-reinstall --no-cache-dir "llama-cpp-python=={VERSION}"',
            details=str(error),
        ) from error
    return mtmd_cpp


def _bitmap(native: Any, image: Image) -> int:
    decoded = pixels(image)
    data = decoded.tobytes()
    return int(native.mtmd_bitmap_init(*decoded.size, (ctypes.c_uint8 * len(data)).from_buffer_copy(data)))


def _load_error(file: Path, *, gave_up: bool) -> ModelError:
    if gave_up:
        return ModelError("Loading was given up.")
    details = "\n".join(engine_log().lines)
    return ModelFileError(
        f"llama.cpp cannot use {file.name} with this model: it is damaged, or belongs to another one. {CHOOSE}",
        details=details,
    )
