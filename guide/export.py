"""Write what was trained as a Hugging Face folder and as GGUF files: `python -m guide.export`.

The weights are rounded to 16 bits once; the folder keeps those, and every file holds the same numbers or, in q8_0,
the nearest that 8 bits and a scale for each 32 can say. Rows of q and k are put from halves to pairs, as llama.cpp
turns them (convert_hf_to_gguf.py of llama.cpp, LlamaModel.permute).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, PreTrainedTokenizerFast

from .rows import END, SPECIAL, TEMPLATE
from .texts import FOLDER
from .train import Recipe, new_model

FOLDER_OF_MODEL = FOLDER / "model"
SHIPPED = FOLDER / "guide-q8_0.gguf"
TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
OUTER = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
INNER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_folder(training: Path, folder: Path) -> None:
    """Write a training's last checkpoint as config.json, model.safetensors (16 bits) and tokenizer files."""
    kept = torch.load(training / "checkpoint.pt", weights_only=True, map_location="cpu")
    tokenizer = Tokenizer.from_file(str(training / "tokenizer.json"))
    sizes = {one.name: kept["what"][one.name] for one in fields(Recipe)}
    model = new_model(Recipe(**sizes), tokenizer)
    model.load_state_dict(kept["model"])
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: w.half() for name, w in model.state_dict().items() if name != "lm_head.weight"}  # it is tied
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    model.config.dtype = "float32"  # to compute with; the file's 16 bits keep its size down
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=list(SPECIAL[1:]),
        model_max_length=model.config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )
    fast.save_pretrained(folder)


def write_gguf(folder: Path, path: Path, kind: str) -> None:
    """Write a folder's model as a GGUF file.

    Args:
        kind: "f32", "f16" or "q8_0", of its matrices; its norms are f32 always.
    """
    config = LlamaConfig.from_pretrained(folder)
    matrices, file_type = TYPES[kind]
    writer = gguf.GGUFWriter(path, "llama")
    _add_settings(writer, config, file_type)
    _add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text("utf-8")))
    for name, weight in load_file(folder / "model.safetensors").items():
        data = weight.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            data = _as_pairs(data, config.num_attention_heads)
        wanted = matrices if data.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(_name_of(name), quantize(data, wanted), raw_dtype=wanted)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()


def _add_settings(writer: gguf.GGUFWriter, config: Any, file_type: gguf.LlamaFileType) -> None:
    writer.add_name("LlamaForge guide")
    writer.add_description("A tiny demo that knows only LlamaForge.")
    writer.add_license("mit")
    writer.add_file_type(file_type)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any]) -> None:
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    types = [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in vocabulary]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(vocabulary.index(END))
    writer.add_pad_token_id(vocabulary.index(END))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(TEMPLATE)


def _name_of(name: str) -> str:
    if name in OUTER:
        return OUTER[name]
    _model, _layers, number, *part = name.removesuffix(".weight").split(".")
    return f"blk.{number}.{INNER['.'.join(part)]}.weight"


def _as_pairs(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training", type=Path, default=FOLDER / "training", help="what guide.train has left")
    parser.add_argument("--folder", type=Path, default=FOLDER_OF_MODEL, help="where the Hugging Face folder goes")
    parser.add_argument("--gguf", type=Path, default=SHIPPED, help="where the q8_0 file goes")
    flags = parser.parse_args()
    write_folder(flags.training, flags.folder)
    write_gguf(flags.folder, flags.gguf, "q8_0")
    print(f"{flags.gguf} has {flags.gguf.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
