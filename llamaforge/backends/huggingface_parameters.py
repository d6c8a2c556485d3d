"""What can be set of a Hugging Face model."""

from __future__ import annotations

from typing import Literal

from .parameters import SamplingParameters, generate, load

AS_PUBLISHED = "Unset: as the model's generation_config.json says."


class HuggingFaceParameters(SamplingParameters):
    """Parameters of transformers, by the names of `from_pretrained` where it has them."""

    temperature: float | None = generate(
        None,
        f"Randomness: 0 always takes the likeliest token, higher is more varied. {AS_PUBLISHED}",
        ge=0,
        le=2,
        step=0.05,
        advanced=False,
    )
    top_p: float | None = generate(
        None,
        f"Keep the likeliest tokens that together reach this probability; 1 keeps all. {AS_PUBLISHED}",
        ge=0,
        le=1,
        step=0.01,
        advanced=False,
    )
    top_k: int | None = generate(
        None, f"Keep only this many of the likeliest tokens; 0 keeps all. {AS_PUBLISHED}", ge=0, le=1000
    )
    min_p: float | None = generate(
        None, f"Drop tokens less likely than this share of the likeliest one. {AS_PUBLISHED}", ge=0, le=1, step=0.01
    )
    repeat_penalty: float | None = generate(
        None, f"Makes tokens of the recent text less likely; 1 is off. {AS_PUBLISHED}", ge=0.1, le=2, step=0.05
    )

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
