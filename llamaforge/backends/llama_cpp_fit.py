"""What a GGUF model takes and what it is given: context window, layers on the GPU, bytes, before any is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ParameterError
from ..gguf_file import GGUFHeader
from ..memory import HEADROOM, find_gpus, measure, physical_cores
from ..types import MemoryNeed
from .llama_cpp_native import import_llama_cpp, supports_gpu

DEFAULT_N_CTX = 8192  # longer windows cost memory that most chats never use
DEFAULT_N_BATCH = 512  # llama.cpp's own n_batch
SMALLEST_N_CTX = 2048  # below this a chat is no use: rather say that it does not fit
# Types of the KV cache by llama.cpp's names: the id that ggml has for each, and the bytes of a number.
CACHE_TYPES = {"f32": (0, 4.0), "f16": (1, 2.0), "q8_0": (8, 34 / 32), "q4_0": (2, 18 / 32)}
QUANTISED = ("q8_0", "q4_0")
BLOCK = 32  # numbers that are quantised together


def default_threads() -> int:
    """All physical cores but one: threads of llama.cpp spin, and one that must share its core holds up the others."""
    return max(1, physical_cores() - 1)


def llama_arguments(path: Path, layers: int, window: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of llama-cpp-python's `Llama`."""
    threads = settings.get("n_threads") or default_threads()
    type_k, type_v = (CACHE_TYPES[name][0] for name in cache_types(settings))
    return {
        "model_path": str(path),
        "n_gpu_layers": layers,
        "n_ctx": _rounded(window),
        "n_batch": min(settings.get("n_batch") or DEFAULT_N_BATCH, window),
        "n_threads": threads,
        "n_threads_batch": settings.get("n_threads_batch") or threads,
        "flash_attn": bool(settings.get("flash_attn")),
        "use_mmap": settings.get("use_mmap") is not False,
        "use_mlock": bool(settings.get("use_mlock")),
        "type_k": type_k,
        "type_v": type_v,
        "verbose": False,
    }


def cache_types(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return the types in which the KV cache keeps keys and values.

    Raises:
        ParameterError: f16_kv, the older name for both, says otherwise, or llama.cpp cannot do it.
    """
    old = {True: "f16", False: "f32", None: None}[settings.get("f16_kv")]
    chosen = {name: settings.get(name) for name in ("type_k", "type_v")}
    for name, kind in chosen.items():
        if old and kind and kind != old:
            raise ParameterError(
                f"f16_kv says that the KV cache is {old}, and {name} says {kind}. Leave f16_kv unset.", name=name
            )
    if chosen["type_v"] in QUANTISED and not settings.get("flash_attn"):
        raise ParameterError(
            f"type_v: {chosen['type_v']} needs flash attention. Turn flash_attn on, or set type_v to f16.",
            name="type_v",
        )
    return chosen["type_k"] or old or "f16", chosen["type_v"] or old or "f16"


def require_cache_types(header: GGUFHeader, settings: Mapping[str, Any]) -> None:
    """Raise ParameterError where a model cannot keep its KV cache in the types that are set."""
    for name, kind, size in zip(("type_k", "type_v"), cache_types(settings), header.head_sizes, strict=True):
        if kind in QUANTISED and size % BLOCK:
            raise ParameterError(
                f"{name}: {kind} needs attention heads of a multiple of {BLOCK} numbers, and those of "
                f"{header.path.name} have {size}. Set {name} to f16.",
                name=name,
            )


def context_window(header: GGUFHeader, settings: Mapping[str, Any]) -> int:
    """Return the tokens that prompt and answer share: n_ctx as asked for, else what fits."""
    if settings.get("n_ctx"):
        return int(settings["n_ctx"])
    window = min(header.n_ctx_train or DEFAULT_N_CTX, DEFAULT_N_CTX)
    memory = measure(find_gpus())
    free = memory.ram_free + memory.vram_free - HEADROOM
    while window > SMALLEST_N_CTX and memory_need(header, window, settings).total > free:
        window = max(SMALLEST_N_CTX, window // 2)
    return window


def _rounded(window: int) -> int:
    """llama.cpp allots multiples of 256, and llama-cpp-python's own arrays must not be shorter."""
    return -(-window // 256) * 256


def memory_need(header: GGUFHeader, window: int, settings: Mapping[str, Any]) -> MemoryNeed:
    window = _rounded(window)
    key, value = (CACHE_TYPES[name][1] for name in cache_types(settings))
    batch = min(settings.get("n_batch") or DEFAULT_N_BATCH, DEFAULT_N_BATCH)  # llama.cpp computes 512 rows at a time
    # What one batch needs beside the weights, all in f32: logits, a few activations, and without flash
    # attention the scores of every head against the whole window.
    columns = header.n_vocab + 8 * header.n_embd + (0 if settings.get("flash_attn") else header.n_head * window)
    return MemoryNeed(
        weights=header.file_size, kv_cache=header.kv_cache_bytes(window, key, value), compute=batch * columns * 4
    )


def gpu_layers(header: GGUFHeader, settings: Mapping[str, Any], window: int) -> int:
    """Return how many layers go to the GPU: those asked for, else as many as its free memory holds."""
    if not supports_gpu(import_llama_cpp()):
        return 0
    everything = header.n_layers + 1  # llama.cpp counts the output matrix as one more layer
    asked = settings.get("n_gpu_layers", -1)
    if asked >= 0:
        return everything if asked >= header.n_layers else asked
    memory = measure(find_gpus())
    if not memory.vram_total:  # Metal shares the RAM; other cards do not tell
        return everything
    need = memory_need(header, window, settings)
    free = memory.vram_free - HEADROOM - need.compute
    return max(0, min(everything, int(free * everything / (need.weights + need.kv_cache))))
