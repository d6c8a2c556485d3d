"""Small GGUF models that say a known text: for tests with the real llama.cpp, and without a download.

The weights are a table of what follows what. Attention and feed-forward add nothing (their output matrices are
zero), so that the last token alone decides: its embedding is the unit vector of its state, and the output matrix
holds a logit for each pair of state and next token. Each piece of the answer is a token and a state of its own;
all other tokens share the state "prompt", which the answer's first piece follows. So whatever is asked, and with
whatever template, a model answers its sentence. It cannot know what was asked: the KV cache is filled but not used.

No piece can come out of tokenizing a text (the tokenizer has no merges for them), so that no prompt leads into the
middle of an answer. Characters outside ASCII are cut into pieces that are no valid UTF-8 on their own.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

DEFAULT_ANSWER = (
    "Hello! I am a **tiny** model and I know one answer.\n\n"
    '```python\nprint("Hello")\n```\n\n'
    "Here is a llama 🦙, and this is Japanese: 日本語. Use `Stop` to stop me."
)
THINKING_ANSWER = "<think>\nThe user wants an answer.\n</think>\n\nThe answer is **42**."
COUNTING_ANSWER = "one two three four five six seven eight nine ten "  # for endless=True
CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LONG_TOKEN = "=" * 48  # longer than the 32 bytes that some engines set aside for a token's text
WORDS = (
    "Hello hello world system user assistant You are a helpful the The and is of to in it I you what What how How "
    "why do does can could tell me say Say answer question model test please thank thanks good bad one two three four "
    "five count write Write story code Python print long short name my your number word words text file page chat"
).split()
SURE = 60.0  # the logit of what follows; all others have 0, so that even a high temperature changes nothing


def write_tiny_gguf(  # noqa: PLR0913 - a test names the one or two that it needs
    path: Path,
    answer: str | bytes = DEFAULT_ANSWER,
    *,
    layers: int = 2,
    width: int = 256,
    feed_forward: int = 512,
    n_ctx_train: int = 2048,
    endless: bool = False,
    shuffled: bool = False,
    random_weights: int | None = None,
    chat_template: str | None = CHATML,
    architecture: str = "llama",
    metadata: Mapping[str, Any] | None = None,
    file_type: gguf.LlamaFileType = gguf.LlamaFileType.ALL_F32,
) -> Path:
    """Write a model that answers every prompt with `answer`, then ends; the same arguments give the same bytes.

    Args:
        answer: bytes may be invalid UTF-8; "" ends at once. ValueError if it does not fit into `width` states.
        layers: with 8 (19 MB), 3,000 tokens of prompt take about 2.5 s on one thread, each token of the answer 4 ms.
        endless: begin again after the last piece, for ever.
        shuffled: all pieces and the end are equally likely, so that the seed decides; greedy still says the answer.
        random_weights: a seed; the answer is then letters without end, and each token depends on all before it.
        metadata: more settings, or other values for those written here; None leaves a setting out.
    """
    pieces = answer_pieces(answer, whole_characters=shuffled)
    if len(pieces) >= width:
        raise ValueError(f"the answer has {len(pieces)} pieces; width must be larger, not {width}")
    tokens, merges = _vocabulary(pieces)
    writer = gguf.GGUFWriter(path, architecture)
    shape = _Shape(layers, width, feed_forward, heads=max(1, width // 64), heads_kv=max(1, width // 128))
    settings = _model_settings(architecture, shape, n_ctx_train, file_type)
    for key, value in (settings | _tokenizer_settings(tokens, merges, chat_template) | dict(metadata or {})).items():
        _add_setting(writer, key, value)
    states = {tokens.index(_spelled(piece)): number for number, piece in enumerate(pieces, start=1)}
    table = _what_follows(list(states), tokens.index("<|im_end|>"), endless=endless, shuffled=shuffled)
    embeddings, output = _tables(shape.width, len(tokens), states, table)
    weights = {"token_embd": embeddings, "output": output, **_layers(shape)}
    if random_weights is not None:
        source = np.random.default_rng(random_weights)
        weights = {name: source.normal(0, 0.3, weight.shape).astype(np.float32) for name, weight in weights.items()}
        weights["output"][[not _plain(token) for token in tokens]] = 0
    _add_tensors(writer, shape, weights, file_type)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


def answer_pieces(answer: str | bytes, *, whole_characters: bool = False) -> list[bytes]:
    """Cut an answer into the texts of its tokens, each of which occurs once and in no prompt.

    A piece is a word of up to 24 characters, or LONG_TOKEN, with the blanks behind it, or two or three bytes of
    characters outside ASCII. One that came before, or that a prompt may hold, is joined with its neighbour.
    """
    data = answer.encode() if isinstance(answer, str) else answer
    taken, pieces, pending = set(_reachable()), list[bytes](), b""
    for unit in (_WORDS if whole_characters else _WORDS_AND_BYTES).findall(data):
        pending += unit
        if _spelled(pending) not in taken:
            pieces.append(pending)
            taken.add(_spelled(pending))
            pending = b""
    while pending and pieces:
        taken.discard(_spelled(pieces[-1]))
        pending = pieces.pop() + pending
        if _spelled(pending) not in taken:
            pieces.append(pending)
            pending = b""
    if len(pending) == 1 or _spelled(pending) in CONTROL_TOKENS:
        raise ValueError(f"the answer {answer!r} cannot be told from a prompt; make it longer")
    return pieces or [pending] * bool(pending)


def damaged_variants(good: Path, folder: Path) -> dict[str, Path]:
    """Write bad files of all sorts, made from a good one where they have to be; return their paths by name."""
    data = good.read_bytes()
    contents = _no_gguf_files() | _patched(data) | _handmade_headers()
    contents["truncated_header"] = data[:2000]
    contents["truncated_data"] = data[: len(data) // 2]
    paths = {name: folder / f"{name}.gguf" for name in contents}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    models: dict[str, dict[str, Any]] = {
        "alignment_0": {"general.alignment": 0},
        "alignment_3": {"general.alignment": 3},
        "alignment_text": {"general.alignment": "32"},
        "mmproj": {"general.type": "mmproj"},
        "lora_adapter": {"general.type": "adapter", "adapter.type": "lora"},
        "pooled_embedding": {"llama.pooling_type": 3},
        "zero_heads": {"llama.attention.head_count": 0},
        "later_part": {"split.no": 1, "split.count": 2},
    }
    for name, metadata in models.items():
        paths[name] = write_tiny_gguf(folder / f"{name}.gguf", width=64, layers=1, metadata=metadata)
    for name, architecture in {"clip": "clip", "bert": "bert", "unknown_architecture": "llama9000"}.items():
        paths[name] = write_tiny_gguf(folder / f"{name}.gguf", width=64, layers=1, architecture=architecture)
    return paths


def handmade(settings: Sequence[bytes] = (), tensors: Sequence[bytes] = (), *, data: bytes = b"") -> bytes:
    """Return a GGUF file of settings and tensors made by the functions below, valid or not."""
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(settings)) + b"".join(settings) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + data


def text(value: str | bytes) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def text_setting(key: str, value: str) -> bytes:
    return text(key) + struct.pack("<I", gguf.GGUFValueType.STRING) + text(value)


def number_setting(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", gguf.GGUFValueType.UINT32, value)


def array_setting(key: str, kind: gguf.GGUFValueType, count: int, data: bytes) -> bytes:
    return text(key) + struct.pack("<IIQ", gguf.GGUFValueType.ARRAY, kind, count) + data


def tensor_info(name: str, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def _no_gguf_files() -> dict[str, bytes]:
    lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "4d7a" * 16 + "\nsize 436843897\n"
    return {
        "empty": b"",
        "text": b"Not a model, only words.\n",
        "text_in_utf8": "\ufeffКакой-то текст\n".encode(),
        "json": b'{"error": "Repository not found"}',
        "html": b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>",
        "lfs_pointer": lfs.encode(),
        "zip": b"PK\x03\x04\x14\x00\x00\x00\x08\x00" + bytes(20) + b"model.gguf",
        "pytorch_zip": b"PK\x03\x04\x00\x00\x08\x08\x00\x00" + bytes(20) + b"archive/data.pkl",
        "pickle": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        "safetensors": struct.pack("<Q", 80) + b'{"__metadata__":{"format":"pt"}}'.ljust(80) + bytes(64),
        "gzip": b"\x1f\x8b\x08\x00" + bytes(40),
        "old_ggml": b"lmgg" + bytes(100),
        "old_ggjt": b"tjgg" + bytes(100),
        "zeros": bytes(4096),
        "noise": bytes(range(1, 256)) * 4,
    }


def _patched(data: bytes) -> dict[str, bytes]:
    def with_number(offset: int, code: str, value: int) -> bytes:
        patched = bytearray(data)
        struct.pack_into(code, patched, offset, value)
        return bytes(patched)

    versions = {f"version_{number}": with_number(4, "<I", number) for number in (0, 1, 4, 99)}
    return versions | {
        "wrong_magic": b"GGUG" + data[4:],
        "big_endian": with_number(4, ">I", 3),
        "magic_only": data[:4],
        "no_counts": data[:12],
        "tensor_count_2_63": with_number(8, "<Q", 2**63),
        "setting_count_2_63": with_number(16, "<Q", 2**63),
        "too_many_settings": with_number(16, "<Q", 60_000),
        "text_length_2_63": with_number(24, "<Q", 2**63),
    }


def _handmade_headers() -> dict[str, bytes]:
    llama = text_setting("general.architecture", "llama")
    texts, numbers = gguf.GGUFValueType.STRING, gguf.GGUFValueType.UINT32
    return {
        "twice_the_same_setting": handmade([llama, llama]),
        "unknown_value_type": handmade([text("a") + struct.pack("<I", 77)]),
        "array_of_arrays": handmade([array_setting("a", gguf.GGUFValueType.ARRAY, 1, bytes(64))]),
        "array_of_2_63_texts": handmade([array_setting("a", texts, 2**63, bytes(64))]),
        "array_of_2_63_numbers": handmade([array_setting("a", numbers, 2**63, bytes(64))]),
        "array_of_long_texts": handmade([array_setting("a", texts, 2, text("b") + struct.pack("<Q", 2**64 - 9))]),
        "tensor_far_away": handmade([llama], [tensor_info("a", [32], offset=2**60)], data=bytes(128)),
        "tensor_beyond_the_end": handmade([llama], [tensor_info("a", [1024])], data=bytes(128)),
        "tensor_not_aligned": handmade([llama], [tensor_info("a", [8], offset=7)], data=bytes(128)),
        "tensor_of_nothing": handmade([llama], [tensor_info("a", [32, 0])], data=bytes(128)),
        "tensor_too_large": handmade([llama], [tensor_info("a", [2**40, 2**40])], data=bytes(128)),
        "tensor_half_a_block": handmade([llama], [tensor_info("a", [48], kind=2)], data=bytes(128)),
        "tensor_of_five_dimensions": handmade([llama], [tensor_info("a", [2] * 5)], data=bytes(128)),
        "vocabulary_only": handmade([llama, array_setting("tokenizer.ggml.tokens", texts, 1, text("a"))]),
        "no_architecture": handmade([number_setting("a", 1)], [tensor_info("a", [32])], data=bytes(128)),
    }


_WORDS = re.compile(rb"[^\s]+\s*|\s+")
# In this order: LONG_TOKEN, what is left of an odd number of bytes outside ASCII, two such bytes, up to 24 of a word.
_WORDS_AND_BYTES = re.compile(
    rb"={48}\s*|[\x80-\xff]{2,3}(?![\x80-\xff])|[\x80-\xff]{2}|[^\s\x80-\xff]{1,24}\s*|\s+|.", re.DOTALL
)


def _byte_letters() -> dict[int, str]:
    """Return the printable character that stands for each byte in vocabularies of GPT-2's kind."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


_LETTERS = _byte_letters()


def _spelled(piece: bytes) -> str:
    return "".join(_LETTERS[byte] for byte in piece)


def _plain(token: str) -> bool:
    """Tell whether a token is of letters and blanks, as a text that every engine shows alike."""
    return re.fullmatch(r"[\x21-\x7eĠ]+", token) is not None and token not in CONTROL_TOKENS


@cache
def _merges() -> tuple[tuple[str, str], ...]:
    """Train byte-pair merges that make one token of each of WORDS, with and without a blank before, and LONG_TOKEN."""
    texts = [*WORDS, *(" " + word for word in WORDS), LONG_TOKEN]
    words = [[_LETTERS[byte] for byte in text.encode()] for text in texts]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in words for pair in pairwise(word)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = [_merged(word, best) if best[0] in word else word for word in words]
    return tuple(merges)


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for letter in word:
        if merged and (merged[-1], letter) == pair:
            merged[-1] += letter
        else:
            merged.append(letter)
    return merged


@cache
def _reachable() -> frozenset[str]:
    """Return the tokens that a prompt may consist of."""
    return frozenset([*_LETTERS.values(), *(left + right for left, right in _merges()), *CONTROL_TOKENS])


def _vocabulary(pieces: Sequence[bytes]) -> tuple[list[str], list[str]]:
    """Return all tokens and the merges; none of the merges if one would make a piece of a prompt."""
    spelled = [_spelled(piece) for piece in pieces]
    merges = () if _reachable().intersection(spelled) else _merges()
    tokens = [*_LETTERS.values(), *(left + right for left, right in merges), *CONTROL_TOKENS, *spelled]
    return list(dict.fromkeys(tokens)), [f"{left} {right}" for left, right in merges]


class _Shape(NamedTuple):
    layers: int
    width: int
    feed_forward: int
    heads: int
    heads_kv: int


def _model_settings(
    architecture: str, shape: _Shape, n_ctx_train: int, file_type: gguf.LlamaFileType
) -> dict[str, Any]:
    layers, width, feed_forward, heads, heads_kv = shape
    sizes = {
        "block_count": layers,
        "context_length": n_ctx_train,
        "embedding_length": width,
        "feed_forward_length": feed_forward,
        "attention.head_count": heads,
        "attention.head_count_kv": heads_kv,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": width // heads,
    }
    general = {"general.name": "Tiny test model", "general.type": "model", "general.file_type": int(file_type)}
    return general | {f"{architecture}.{key}": value for key, value in sizes.items()}


def _tokenizer_settings(tokens: list[str], merges: list[str], chat_template: str | None) -> dict[str, Any]:
    end = tokens.index("<|im_end|>")
    kinds = [gguf.TokenType.CONTROL if token in CONTROL_TOKENS else gguf.TokenType.NORMAL for token in tokens]
    settings = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [int(kind) for kind in kinds],
        "merges": merges or ["a b"],  # llama.cpp wants one; this one does nothing, "ab" being no token
        "bos_token_id": tokens.index("<|endoftext|>"),
        "eos_token_id": end,
        "eot_token_id": end,
        "add_bos_token": False,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in settings.items()} | {
        "tokenizer.chat_template": chat_template
    }


def _add_setting(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array", tuple: "array"}
    if value is not None:
        getattr(writer, f"add_{kinds[type(value)]}")(key, value)


def _what_follows(pieces: list[int], end: int, *, endless: bool, shuffled: bool) -> np.ndarray[Any, Any]:
    """Return rows of state, next token and its logit; state 0 is the prompt, state n the answer's n-th piece."""
    after = [*pieces, pieces[0] if endless and pieces else end]
    rows = [(state, token, SURE + 0.1 * shuffled) for state, token in enumerate(after)]
    if shuffled:
        choices = pieces if endless else [*pieces, end]
        rows += [(state, token, SURE) for state in range(1, len(after)) for token in choices if token != after[state]]
        rows += [(0, token, SURE) for token in pieces[1:]]
    return np.array(rows)


def _tables(
    width: int, vocabulary: int, states: Mapping[int, int], table: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the embeddings, the unit vector of each token's state, and the output matrix of what follows what."""
    embeddings = np.zeros((vocabulary, width), np.float32)
    embeddings[np.arange(vocabulary), [states.get(token, 0) for token in range(vocabulary)]] = 1
    output = np.zeros((vocabulary, width), np.float32)
    # The last norm makes a unit vector sqrt(width) long.
    output[table[:, 1].astype(int), table[:, 0].astype(int)] = table[:, 2] / np.sqrt(width)
    return embeddings, output


def _layers(shape: _Shape) -> dict[str, np.ndarray[Any, Any]]:
    """Return layers that add nothing."""
    layers, width, feed_forward, heads, heads_kv = shape
    rows_kv = width // heads * heads_kv
    matrices = {
        "attn_q": (width, width),
        "attn_k": (rows_kv, width),
        "attn_v": (rows_kv, width),
        "attn_output": (width, width),
        "ffn_gate": (feed_forward, width),
        "ffn_up": (feed_forward, width),
        "ffn_down": (width, feed_forward),
    }
    return {f"blk.{n}.{name}": np.zeros(size, np.float32) for n in range(layers) for name, size in matrices.items()}


def _add_tensors(
    writer: gguf.GGUFWriter,
    shape: _Shape,
    weights: Mapping[str, np.ndarray[Any, Any]],
    file_type: gguf.LlamaFileType,
) -> None:
    kind = gguf.GGMLQuantizationType[file_type.name.removeprefix("ALL_").removeprefix("MOSTLY_")]
    for name, weight in weights.items():
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weight, kind), raw_dtype=kind)
    norms = [f"blk.{n}.{name}_norm" for n in range(shape.layers) for name in ("attn", "ffn")]
    for name in ["output_norm", *norms]:
        writer.add_tensor(f"{name}.weight", np.ones(shape.width, np.float32))
