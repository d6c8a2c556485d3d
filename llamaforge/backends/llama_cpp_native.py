"""The few low-level calls of llama-cpp-python that the backend needs beside its `Llama` class."""

from __future__ import annotations

import codecs
import ctypes
import functools
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BackendMissing, ModelError, ModelFileError
from ..gguf_file import GGUFHeader
from ..text_stream import StopMatcher

if TYPE_CHECKING:
    from llama_cpp import Llama

VERSION = "0.3.36"
MAX_LAYERS, MAX_EXPERTS, MAX_CONTEXT = 512, 512, 2**27  # beyond the first two llama.cpp aborts
ROPE_SCALINGS = (None, "none", "linear", "yarn", "longrope")
GPU_BUILDS = {"Apple GPU": "GGML_METAL", "AMD GPU": "GGML_HIP"}


def missing() -> BackendMissing:
    return BackendMissing(
        "GGUF files need the package llama-cpp-python, which is not installed. "
        f'Install it and start again: pip install "llama-cpp-python=={VERSION}" (it compiles for 5 to 10 minutes).'
    )


def import_llama_cpp() -> Any:
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: its shared library does not load
        raise BackendMissing(
            "llama-cpp-python is installed but cannot be loaded. Install it anew: "
            f'pip install --force-reinstall --no-cache-dir "llama-cpp-python=={VERSION}"',
            details=str(error),
        ) from error
    return llama_cpp


def without_amx(params: Any) -> Any:
    """Keep llama_model_params from weights packed for Intel's AMX.

    On virtual machines whose processor has AMX, its code ends the process with a general protection fault at the first
    prompt of a quantised model (seen with llama-cpp-python 0.3.36 on Linux 6.18); plain AVX-512 does the same work.
    """
    import llama_cpp

    if b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info():
        params.use_extra_bufts = False
    return params


def llama_class(on_progress: Callable[[float], bool]) -> type[Llama]:
    """Return llama-cpp-python's class without its chat templates: it would compile them, and fail at a wrong one.

    Args:
        on_progress: called with the share of the file that is loaded (llama_model_params.progress_callback); the
            load is given up where it returns False.
    """
    import llama_cpp

    class PlainLlama(llama_cpp.Llama):  # type: ignore[misc]
        @property
        def model_params(self) -> Any:
            return self._model_params

        @model_params.setter
        def model_params(self, params: Any) -> None:
            self._on_progress = llama_cpp.llama_cpp.llama_progress_callback(lambda share, _data: on_progress(share))
            params.progress_callback = self._on_progress
            self._model_params = without_amx(params)

        @property
        def metadata(self) -> dict[str, str]:
            return self._metadata

        @metadata.setter
        def metadata(self, values: dict[str, str]) -> None:
            self._metadata = {k: v for k, v in values.items() if not k.startswith("tokenizer.chat_template")}

    return PlainLlama


def require_loadable(header: GGUFHeader) -> None:
    """Raise ModelFileError for what makes llama.cpp abort the whole process where it should refuse a file."""
    settings = {key.removeprefix(f"{header.architecture}."): value for key, value in header.metadata.items()}
    counts = [settings.get(key, 0) for key in ("expert_count", "expert_used_count")]
    experts, used = (count if isinstance(count, int) else 0 for count in counts)
    scaling = settings.get("rope.scaling.type")
    claims = {
        f"{header.n_layers:,} layers": not 1 <= header.n_layers <= MAX_LAYERS,
        f"a context of {header.n_ctx_train:,} tokens": header.n_ctx_train > MAX_CONTEXT,
        f"{used:,} of {experts:,} experts": not used <= experts <= MAX_EXPERTS or (used == 0 < experts),
        f"the scaling {str(scaling)[:30]!r}": scaling not in ROPE_SCALINGS,
    }
    for claim, wrong in claims.items():
        if wrong:
            raise ModelFileError(f"{header.path.name} is damaged: its header claims {claim}. Download it again.")


def supports_gpu(native: Any) -> bool:
    return bool(native.llama_supports_gpu_offload())


def gpu_advice(gpu: str) -> str:
    build = GPU_BUILDS.get(gpu, "GGML_CUDA")
    return (
        f"This computer has a GPU ({gpu}), but llama-cpp-python was built for the CPU only. Build it for the GPU: "
        f'CMAKE_ARGS="-D{build}=on" pip install --force-reinstall --no-cache-dir "llama-cpp-python=={VERSION}"'
    )


class Decoder:
    """Turns token ids into text one at a time, at the same cost however long the answer is."""

    def __init__(self, llama: Llama, stop: Sequence[str]) -> None:
        import llama_cpp

        self._native = llama_cpp
        self._vocab = llama_cpp.llama_model_get_vocab(llama.model)
        self._buffer = ctypes.create_string_buffer(256)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._matcher = StopMatcher(stop)
        self.count = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop text has been seen."""
        return self._matcher.matched

    @property
    def whole(self) -> bool:
        """Whether the text of all tokens so far has been told."""
        return not self._matcher.holds and not self.stopped and not self._utf8.getstate()[0]

    def ends(self, token: int) -> bool:
        """Tell whether a token ends the answer (llama.cpp's end-of-generation tokens)."""
        return bool(self._native.llama_vocab_is_eog(self._vocab, token))

    def feed(self, token: int) -> str:
        self.count += 1
        return self._matcher.feed(self._utf8.decode(self._piece(token)))

    def flush(self) -> str:
        return "" if self.stopped else self._matcher.feed(self._utf8.decode(b"", final=True)) + self._matcher.flush()

    def _piece(self, token: int) -> bytes:
        length = self._native.llama_token_to_piece(self._vocab, token, self._buffer, len(self._buffer), 0, False)
        if length < 0:  # the buffer is too short, minus the length is what it needs
            self._buffer = ctypes.create_string_buffer(-length)
            return self._piece(token)
        return self._buffer.raw[:length]


def token_text(llama: Llama, token: int) -> str:
    return str(llama._model.token_get_text(token)) if token >= 0 else ""


def control_tokens(llama: Llama) -> list[str]:
    """Return the texts that the tokenizer reads as control tokens when it is told to parse them."""
    import llama_cpp

    vocab = llama_cpp.llama_model_get_vocab(llama.model)
    control = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
    ids = (token for token in range(llama.n_vocab()) if llama_cpp.llama_vocab_get_attr(vocab, token) & control)
    return [llama_cpp.llama_vocab_get_text(vocab, token).decode("utf-8", "replace") for token in ids]


def abort_when_set(llama: Llama, flag: ctypes.Array[ctypes.c_char]) -> None:
    """Make llama.cpp give up within some 30 ms, a long prompt too, once the first byte of `flag` is not zero.

    Its abort callback is the C library's strlen on the flag: a callback in Python would cost a tenth of the speed.
    """
    import llama_cpp

    try:
        strlen = ctypes.CDLL(None).strlen
    except (OSError, TypeError, AttributeError):  # Windows: Stop is heard between pieces of the prompt only
        return
    callback = ctypes.cast(strlen, llama_cpp.llama_cpp.ggml_abort_callback)
    llama_cpp.llama_set_abort_callback(llama.ctx, callback, ctypes.addressof(flag))


class EngineLog:
    """Keeps the last lines of llama.cpp's log, which hold the true reason of a failed load."""

    def __init__(self) -> None:
        import llama_cpp

        self.lines: deque[str] = deque(maxlen=200)
        self.callback = llama_cpp.llama_log_callback(self._keep)  # referred to, else it would be freed under llama.cpp
        llama_cpp.llama_log_set(self.callback, ctypes.c_void_p(0))

    def _keep(self, level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
        if level >= 3:  # ggml levels: 1 debug, 2 info, 3 warn, 4 error, 5 continuation
            self.lines.append(text.decode("utf-8", "replace").rstrip("\n"))


@functools.cache
def engine_log() -> EngineLog:
    """Return the one log of this process: llama.cpp has one callback, and it must outlive every model."""
    return EngineLog()


def load_error(path: Path, log: Sequence[str], error: Exception) -> ModelError:
    details = "\n".join([*log, str(error)])
    if "unknown model architecture" in details:
        return ModelFileError(
            f"{path.name} is of a type that llama-cpp-python {VERSION} does not know. Update llama-cpp-python.",
            details=details,
        )
    if "out of memory" in details.lower() or "failed to allocate" in details.lower():
        return ModelError(
            f"There is not enough memory for {path.name}. Lower n_gpu_layers or n_ctx, or choose a smaller model.",
            details=details,
        )
    if "llama_context" in details:
        return ModelError(
            f"llama.cpp could not set up a context for {path.name}. Lower n_ctx or n_batch.", details=details
        )
    return ModelFileError(
        f"llama.cpp cannot load {path.name}: it is damaged or incomplete. Download it again.", details=details
    )
