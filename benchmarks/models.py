"""Random-weight Llama models that the benchmarks write themselves: real sizes, real speed, no download, no sense."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers that make a Llama model's size; the default has about 125 million parameters."""

    width: int = 768
    layers: int = 12
    feed_forward: int = 3072
    heads: int = 12
    kv_heads: int = 4
    vocabulary: int = 32_000


def small_model(folder: Path) -> Path:
    """Return a q8_0 GGUF of about 125 million parameters, written once."""
    path = folder / "small-125m-q8_0.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_random(path, Shape())
    return path


def small_folder(folder: Path) -> Path:
    """Return a Hugging Face folder of about 14 million f32 parameters, written once."""
    from tiny_gguf import write_tiny_gguf
    from tiny_hf import as_hf_folder  # of the tests, for those benchmarks that have them on their path

    path = folder / "small-14m"
    if not (path / "tokenizer_config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shape = {"layers": 6, "width": 512, "feed_forward": 1024, "n_ctx_train": 8192}
        made = write_tiny_gguf(folder / "small-14m.gguf", "never said", random_weights=7, **shape)
        as_hf_folder(made, path)
        made.unlink()
    return path


def write_random(path: Path, shape: Shape) -> None:
    """Write a Llama GGUF with random q8_0 weights; its tokens are letters in twos and threes, none ends an answer."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_block_count(shape.layers)
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    _add_tokenizer(writer, shape.vocabulary)
    head = shape.width // shape.heads
    random = np.random.default_rng(0)

    def add(name: str, rows: int, columns: int) -> None:
        weights = random.standard_normal((rows, columns), dtype=np.float32) * 0.02
        quantised = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    add("token_embd.weight", shape.vocabulary, shape.width)
    add("output.weight", shape.vocabulary, shape.width)
    writer.add_tensor("output_norm.weight", np.ones(shape.width, np.float32))
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        add(block + "attn_q.weight", shape.heads * head, shape.width)
        add(block + "attn_k.weight", shape.kv_heads * head, shape.width)
        add(block + "attn_v.weight", shape.kv_heads * head, shape.width)
        add(block + "attn_output.weight", shape.width, shape.heads * head)
        add(block + "ffn_gate.weight", shape.feed_forward, shape.width)
        add(block + "ffn_up.weight", shape.feed_forward, shape.width)
        add(block + "ffn_down.weight", shape.width, shape.feed_forward)
        writer.add_tensor(block + "attn_norm.weight", np.ones(shape.width, np.float32))
        writer.add_tensor(block + "ffn_norm.weight", np.ones(shape.width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    special = ["<|im_start|>", "<|im_end|>", "<|never|>"]
    letters = [_byte_character(byte) for byte in range(256)]
    lower = "abcdefghijklmnopqrstuvwxyz"
    words = [a + b for a in lower for b in lower] + [a + b + c for a in lower for b in lower for c in lower]
    more = [word + end for end in lower for word in words[676 : 676 + 1000]]
    tokens = (special + letters + words + more)[:vocabulary]
    assert len(tokens) == vocabulary, len(tokens)
    types = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (vocabulary - 3)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{a} {b}" for a in lower for b in lower])
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)


def _byte_character(byte: int) -> str:
    """Return the character by which byte-level BPE writes a byte (GPT-2's bytes_to_unicode)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + [b for b in range(256) if b not in printable].index(byte))
