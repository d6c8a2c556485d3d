"""The tiny test models as Hugging Face folders: the same weights, tokenizer and template as a GGUF file holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file
from tiny_gguf import CONTROL_TOKENS, write_tiny_gguf

NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
OUTER = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}


def write_tiny_hf(folder: Path, *arguments: Any, generation: Mapping[str, Any] | None = None, **options: Any) -> Path:
    """Write the model of write_tiny_gguf as a Hugging Face folder; `generation` is its generation_config.json."""
    path = write_tiny_gguf(folder.with_suffix(".made.gguf"), *arguments, **options)
    as_hf_folder(path, folder, generation)
    path.unlink()
    return folder


def write_random_pair(folder: Path, *, seed: int = 7) -> tuple[Path, Path]:
    """Write a model of random weights, whose every token depends on all before it: a GGUF file and a folder."""
    path = write_tiny_gguf(folder / "random-pair.gguf", "never said", width=128, random_weights=seed)
    return path, as_hf_folder(path, folder / "random-pair")


def as_hf_folder(path: Path, folder: Path, generation: Mapping[str, Any] | None = None) -> Path:
    """Write what a GGUF file of write_tiny_gguf holds as config.json, model.safetensors and a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(path)
    settings = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(settings)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    save_file(_hf_tensors(tensors, config), folder / "model.safetensors", metadata={"format": "pt"})
    files = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": config["eos_token_id"], **(generation or {})},
        "tokenizer.json": _tokenizer(settings),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": CONTROL_TOKENS[0],
            "eos_token": CONTROL_TOKENS[2],
            "model_max_length": config["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
            "chat_template": settings.get("tokenizer.chat_template"),
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), "utf-8")
    return folder


def _config(settings: Mapping[str, Any]) -> dict[str, Any]:
    def number(name: str) -> int:
        return int(settings[f"llama.{name}"])

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": number("embedding_length"),
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": number("attention.head_count"),
        "num_key_value_heads": number("attention.head_count_kv"),
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": len(settings["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": False,
        "bos_token_id": int(settings["tokenizer.ggml.bos_token_id"]),
        "eos_token_id": int(settings["tokenizer.ggml.eos_token_id"]),
        "torch_dtype": "float32",
    }


def _hf_tensors(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    found = {}
    for name, data in tensors.items():
        parts = name.removesuffix(".weight").split(".")
        if parts[0] in OUTER:
            found[f"{OUTER[parts[0]]}.weight"] = np.array(data)
            continue
        _blk, number, part = parts
        array = np.array(data)
        if part in heads:
            array = _halves(array, heads[part])
        found[f"model.layers.{number}.{NAMES[part]}.weight"] = np.ascontiguousarray(array)
    return found


def _halves(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Undo what converting to GGUF does to q and k: rotary pairs side by side there, in two halves here."""
    rows = weight.shape[0]
    return weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _tokenizer(settings: Mapping[str, Any]) -> dict[str, Any]:
    tokens = list(settings["tokenizer.ggml.tokens"])
    merges = [merge for merge in settings["tokenizer.ggml.merges"] if merge != "a b"]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = [{"id": tokens.index(text), "content": text, "special": True} for text in CONTROL_TOKENS]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [one | flags for one in special],
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {token: number for number, token in enumerate(tokens)}, "merges": merges},
    }
