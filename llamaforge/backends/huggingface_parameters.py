"""What can be set of a Hugging Face model."""

from __future__ import annotations

from typing import Literal

from .parameters import OTHER_CHATS, SamplingParameters, load, shared

AS_PUBLISHED = "Unset: as the model's generation_config.json says."


class HuggingFaceParameters(SamplingParameters):
    """Parameters of transformers, by the names of `from_pretrained` where it has them."""

    temperature: float | None = shared("temperature", AS_PUBLISHED)
    top_p: float | None = shared("top_p", AS_PUBLISHED)
    top_k: int | None = shared("top_k", AS_PUBLISHED)
    min_p: float | None = shared("min_p", AS_PUBLISHED)
    repeat_penalty: float | None = shared("repeat_penalty", AS_PUBLISHED)

    device: str | None = load(
        "auto",
        "Where the model runs; auto is the GPU where there is one.",
        pattern=r"^(auto|cpu|mps|cuda(:\d{1,2})?)$",
        examples=["auto", "cpu", "cuda", "cuda:1", "mps"],
        advanced=False,
    )
    torch_dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = load(
        "auto", "Type of the weights in memory; auto is that of the files.", advanced=False
    )
    quantization: Literal["4bit", "8bit"] | None = load(
        None, "Shrink the weights while loading, by the package bitsandbytes. Unset: not at all."
    )
    trust_remote_code: bool | None = load(
        False, "Let the model run its own Python code, with all your rights.", file_only=True
    )
    revision: str | None = load(None, "Branch, tag or commit of the Hub repository. Unset: main.", max_length=200)
    cache_dir: str | None = load(None, "Folder for downloads. Unset: the Hub's usual one.", max_length=4096)
    device_map: str | None = load(
        None, "Spread over several devices: auto, balanced or sequential. Unset: one device.", max_length=200
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] | None = load(
        None, "How attention is computed. Unset: the best that the model and this machine know."
    )
    prompt_cache_mb: int | None = load(None, OTHER_CHATS, ge=0, le=1_048_576)
