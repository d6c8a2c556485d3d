"""Random-weight Llama models that the benchmarks write themselves: real sizes, real speed, no download, no sense."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tiny_gguf import CONTROL_TOKENS, COUNTING_ANSWER, write_tiny_gguf  # noqa: E402
from tiny_hf import as_hf_folder  # noqa: E402

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
    name: str = "125M"


QUICK = Shape(width=128, layers=2, feed_forward=256, heads=4, kv_heads=2, vocabulary=2000, name="small")
FOLDER = Path(tempfile.gettempdir()) / "llamaforge-benchmarks"
Q8_0, F16, F32 = (gguf.GGMLQuantizationType[name] for name in ("Q8_0", "F16", "F32"))
FILE_TYPES = {
    Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
    F16: gguf.LlamaFileType.MOSTLY_F16,
    F32: gguf.LlamaFileType.ALL_F32,
}


def tiny_model() -> Path:
    """Return a GGUF of a few hundred words that counts without end: its engine costs next to nothing."""
    return written_once(
        FOLDER / "tiny-f32.gguf", lambda path: write_tiny_gguf(path, COUNTING_ANSWER, endless=True, n_ctx_train=8192)
    )


def random_model(shape: Shape, kind: gguf.GGMLQuantizationType = F16) -> Path:
    """Return a GGUF of that shape, written once."""
    path = FOLDER / f"random-{shape.layers}x{shape.width}-{shape.vocabulary}-{kind.name.lower()}.gguf"
    return written_once(path, lambda unfinished: write_random(unfinished, shape, kind))


def written_once(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file where it is not there yet; another benchmark may be reading or writing it at the same time."""
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        write(unfinished)
        unfinished.replace(path)
    return path


def random_folder(shape: Shape) -> Path:
    """Return a Hugging Face folder with the weights of such a model in 32 bits, written once."""
    path = FOLDER / f"random-{shape.layers}x{shape.width}-{shape.vocabulary}"
    if not (path / "tokenizer_config.json").exists():  # the last of its files
        as_hf_folder(random_model(shape, F32), path)
    return path


def write_random(path: Path, shape: Shape, kind: gguf.GGMLQuantizationType) -> None:
    """Write a Llama GGUF with random weights; its tokens are letters in twos and threes, none ends an answer."""
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
    writer.add_file_type(FILE_TYPES[kind])
    _add_tokenizer(writer, shape.vocabulary)
    head = shape.width // shape.heads
    random = np.random.default_rng(0)

    def add(name: str, rows: int, columns: int, nothing: int = 0) -> None:
        weights = random.standard_normal((rows, columns), dtype=np.float32) * 0.02
        weights[:nothing] = 0
        writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)

    add("token_embd.weight", shape.vocabulary, shape.width)
    add("output.weight", shape.vocabulary, shape.width, nothing=len(CONTROL_TOKENS) + 256)  # only letters are said
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
    letters = [_byte_character(byte) for byte in range(256)]
    lower = "abcdefghijklmnopqrstuvwxyz"
    words = [a + b for a in lower for b in lower] + [a + b + c for a in lower for b in lower for c in lower]
    more = [word + end for end in lower for word in words[676 : 676 + 1000]]
    tokens = ([*CONTROL_TOKENS] + letters + words + more)[:vocabulary]
    assert len(tokens) == vocabulary, len(tokens)
    types = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (vocabulary - 3)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{a} {b}" for a in lower for b in lower])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)


def _byte_character(byte: int) -> str:
    """Return the character by which byte-level BPE writes a byte (GPT-2's bytes_to_unicode)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + [b for b in range(256) if b not in printable].index(byte))
