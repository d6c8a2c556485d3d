"""What can be set of a GGUF file."""

from __future__ import annotations

from typing import Literal

from .llama_cpp_fit import DEFAULT_N_BATCH
from .parameters import OTHER_CHATS, SamplingParameters, load

CacheType = Literal["f32", "f16", "q8_0", "q4_0"]


class LlamaCppParameters(SamplingParameters):
    """Parameters of llama.cpp, by the names of llama-cpp-python's `Llama`."""

    n_gpu_layers: int | None = load(
        None,
        "Layers computed on the GPU; 0 is CPU only, -1 or unset is as many as fit.",
        ge=-1,
        le=9999,
        advanced=False,
    )
    n_ctx: int | None = load(
        None,
        "Context window in tokens, for prompt and answer. Unset: as trained, at most 8,192, less if RAM is short.",
        ge=256,
        le=16_777_216,
        step=256,
        advanced=False,
    )
    n_batch: int | None = load(
        DEFAULT_N_BATCH, "Prompt tokens evaluated at a time; more is faster and takes more memory.", ge=1, le=16_384
    )
    type_k: CacheType | None = load("f16", "Type of the keys in the KV cache; q8_0 takes half the memory of f16.")
    type_v: CacheType | None = load("f16", "Type of the values in the KV cache; q8_0 and q4_0 need flash_attn.")
    f16_kv: bool | None = load(
        None, "The older name of type_k and type_v together: on is f16, off is f32, at twice the memory."
    )
    n_threads: int | None = load(None, "CPU threads. Unset: the physical cores but one.", ge=1, le=512)
    n_threads_batch: int | None = load(
        None, "CPU threads that read the prompt; more than are free slow it down. Unset: as n_threads.", ge=1, le=512
    )
    flash_attn: bool | None = load(False, "Flash attention: less memory for long context windows, faster on GPUs.")
    use_mmap: bool | None = load(True, "Map the file into memory instead of reading it; loads faster.")
    use_mlock: bool | None = load(False, "Keep the model in RAM so that it is never swapped out.")
    prompt_cache_mb: int | None = load(None, OTHER_CHATS, ge=0, le=1_048_576)
    mmproj: str | None = load(
        None,
        "The projector file that lets the model see pictures, beside its file. Unset: the one there that its name "
        "fits; none leaves it.",
        max_length=4096,
    )
