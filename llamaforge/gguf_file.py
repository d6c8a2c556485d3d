"""What a GGUF file says about itself, read from its header.

Trusts no number of the file and keeps only small values, so that any file is judged in a second and a few megabytes.
"""

from __future__ import annotations

import math
import os
import re
import stat
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeAlias

from .errors import ModelFileError

Value: TypeAlias = str | int | float | bool | tuple[int | float | bool, ...]

# Bounds of what is read and kept. Real headers have up to 35 MB, 800,000 texts, 20,000 tensors and 200 settings.
_MAX_HEADER, _MAX_TEXTS, _MAX_TENSORS, _MAX_SETTINGS = 256 * 1024**2, 1_500_000, 65_536, 65_536
_MAX_TEXT, _MAX_NUMBERS, _MAX_KEPT, _MAX_PARTS = 1024**2, 4096, 4 * 1024**2, 1000

_TEXT, _ARRAY = 8, 9
_SCALARS = {n: struct.Struct("<" + code) for n, code in enumerate("BbHhIif?--Qqd") if code != "-"}
# ggml's tensor types: id, name, elements of a block, bytes of a block. Others are accepted with unknown size.
_TENSOR_ROWS = (
    "0 F32 1 4,1 F16 1 2,2 Q4_0 32 18,3 Q4_1 32 20,6 Q5_0 32 22,7 Q5_1 32 24,8 Q8_0 32 34,10 Q2_K 256 84,"
    "11 Q3_K 256 110,12 Q4_K 256 144,13 Q5_K 256 176,14 Q6_K 256 210,15 Q8_K 256 292,16 IQ2_XXS 256 66,"
    "17 IQ2_XS 256 74,18 IQ3_XXS 256 98,19 IQ1_S 256 50,20 IQ4_NL 32 18,21 IQ3_S 256 110,22 IQ2_S 256 82,"
    "23 IQ4_XS 256 136,24 I8 1 1,25 I16 1 2,26 I32 1 4,27 I64 1 8,28 F64 1 8,29 IQ1_M 256 56,30 BF16 1 2,"
    "34 TQ1_0 256 54,35 TQ2_0 256 66,39 MXFP4 32 17,40 NVFP4 64 36,41 Q1_0 128 18,42 Q2_0 64 18"
)
_TENSOR_TYPES = {int(i): (name, int(n), int(b)) for i, name, n, b in map(str.split, _TENSOR_ROWS.split(","))}
# Names of general.file_type by number, as llama.cpp counts them; "-" was never used or has been removed.
_FILE_TYPES = (
    "F32 F16 Q4_0 Q4_1 - - - Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ2_XXS IQ2_XS "
    "Q2_K_S IQ3_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S IQ2_M IQ4_XS IQ1_M BF16 - - - TQ1_0 TQ2_0 MXFP4_MOE NVFP4 "
    "Q1_0 Q2_0"
).split()
_SAMPLING = dict(temp="temperature", penalty_repeat="repeat_penalty", top_k="top_k", top_p="top_p", min_p="min_p")
# Kinds of files by general.type or general.architecture.
_KIND_NAMES = {
    "image projector": "mmproj clip",
    "adapter": "adapter",
    "importance matrix": "imatrix",
    "embedding model": "bert modern-bert nomic-bert nomic-bert-moe neo-bert eurobert jina-bert-v2 jina-bert-v3 "
    "gemma-embedding llama-embed t5encoder",
    "image generator": "flux sd1 sdxl sd3 aura hidream cosmos ltxv hyvid wan lumina2 qwen_image",
}
_KINDS = {name: kind for kind, names in _KIND_NAMES.items() for name in names.split()}
_HINTS = {
    "image projector": "Choose the .gguf file of the model that it belongs to.",
    "adapter": "Choose the .gguf file of the model that it was made for.",
}

_LFS = "a {}-byte Git LFS placeholder, not the model. Download the real file: git lfs pull."
_GET_GGUF = "Download the model in GGUF format, or convert it."
# How other files begin, in lower case and without leading blanks, and what they are.
_OTHER_FILES = (
    ((b"version https://git-lfs",), _LFS),
    ((b"<!doctype html", b"<html", b"<head", b"<?xml"), "a web page, not a model. Download the file itself."),
    ((b"pk\x03\x04",), "a zip archive, not a model. Unpack it and choose the .gguf file inside."),
    ((b"\x1f\x8b", b"7z\xbc\xaf", b"rar!", b"\xfd7zxz"), "a packed archive, not a model. Unpack it first."),
    ((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), f"a PyTorch file. {_GET_GGUF}"),
    ((b"lmgg", b"fmgg", b"tjgg", b"algg"), f"an old GGML file, which llama.cpp no longer reads. {_GET_GGUF}"),
    ((bytes(8),), "incomplete: it begins with zeros. Download it again."),
)


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What the header of a GGUF file tells; sizes, tensors and parameters are those of all parts of a split model.

    `metadata` leaves out texts above 1 MB, arrays of texts and arrays of more than 4,096 numbers;
    `array_lengths` has the length of every array, `tensor_types` the number of elements by type.
    """

    path: Path
    file_size: int
    version: int
    metadata: Mapping[str, Value]
    array_lengths: Mapping[str, int]
    tensor_count: int
    parameters: int
    tensor_types: Mapping[str, int]

    @property
    def architecture(self) -> str:
        return self._text("general.architecture") or ""

    @property
    def name(self) -> str | None:
        return self._text("general.name")

    @property
    def chat_template(self) -> str | None:
        return self._text("tokenizer.chat_template")

    @property
    def n_layers(self) -> int:
        return self._number(".block_count")

    @property
    def n_ctx_train(self) -> int:
        return self._number(".context_length")

    @property
    def n_embd(self) -> int:
        return self._number(".embedding_length")

    @property
    def n_head(self) -> int:
        return self._number(".attention.head_count")

    @property
    def n_vocab(self) -> int:
        return self.array_lengths.get("tokenizer.ggml.tokens", 0) or self._number(".vocab_size")

    @property
    def quantization(self) -> str:
        """Return a name such as "Q4_K_M", of the file type or else of the most used tensor type; "" if unknown."""
        for number in self._numbers("general.file_type"):
            name = dict(enumerate(_FILE_TYPES)).get(number & ~1024, "-")  # this bit says that it is a guess
            if name != "-":
                return name
        return max(self.tensor_types, key=lambda name: self.tensor_types[name], default="")

    @property
    def sampling_defaults(self) -> dict[str, int | float]:
        """Return the sampling settings that the model's makers recommend, by LlamaForge's names."""
        found = {name: self.metadata.get(f"general.sampling.{key}") for key, name in _SAMPLING.items()}
        numbers = {name: value for name, value in found.items() if isinstance(value, int | float)}
        return {name: round(value, 6) for name, value in numbers.items() if math.isfinite(value)}

    @property
    def kind(self) -> str:
        """Return "chat model" or what else it is, such as "image projector" or "embedding model"."""
        kind = _KINDS.get(self._text("general.type") or "") or _KINDS.get(self.architecture)
        if kind or "adapter.type" in self.metadata:
            return kind or "adapter"
        if self._number("split.no") > 0:
            return "part of a split model"
        if not self.tensor_count:
            return "vocabulary only"
        return "embedding model" if 0 < self._number(".pooling_type") < 5 else "chat model"

    @property
    def head_sizes(self) -> tuple[int, int]:
        """How many numbers a head keeps of a token's key, and of its value."""
        usual = self.n_embd // max(1, self.n_head)
        return self._number(".attention.key_length") or usual, self._number(".attention.value_length") or usual

    def kv_cache_bytes(self, n_ctx: int, key_bytes: float = 2, value_bytes: float = 2) -> int:
        """Return about how many bytes a context of `n_ctx` tokens takes; 0 if the header does not tell."""
        layers = max(0, self.n_layers - self._number(".attention.shared_kv_layers"))
        heads = self._numbers(".attention.head_count_kv") or self._numbers(".attention.head_count")
        all_heads = sum(heads[:layers])
        if len(heads) == 1:  # the same in all layers, or in every n-th one
            all_heads = heads[0] * layers // max(1, self._number(".full_attention_interval"))
        key, value = self.head_sizes
        # Recurrent layers keep a state of fixed size instead, in 32-bit floats.
        state = self._number(".ssm.inner_size") * (self._number(".ssm.state_size") + self._number(".ssm.conv_kernel"))
        return math.ceil(n_ctx * all_heads * (key * key_bytes + value * value_bytes)) + layers * state * 4

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def _numbers(self, key: str) -> tuple[int, ...]:
        """Return the whole numbers of a setting; a leading dot stands for the architecture's own settings."""
        value = self.metadata.get(self.architecture + key if key.startswith(".") else key)
        values = value if isinstance(value, tuple) else (value,)
        return tuple(max(0, v) for v in values if isinstance(v, int))

    def _number(self, key: str) -> int:
        return max(self._numbers(key), default=0)


def read_header(path: Path) -> GGUFHeader:
    """Read the header of a GGUF file and, if it is the first part of a split model, of the other parts.

    Raises ModelFileError, with a sentence that says what the file is instead and what to do.
    """
    header = _read_file(path)
    others = [] if header._number("split.no") else _parts(header)[1:]
    files = [header] + [_read_file(part) for part in others if os.path.exists(part)]
    return replace(
        header,
        file_size=sum(file.file_size for file in files),
        tensor_count=sum(file.tensor_count for file in files),
        parameters=sum(file.parameters for file in files),
        tensor_types=dict(sum((Counter(file.tensor_types) for file in files), Counter())),
    )


def require_chat_model(header: GGUFHeader) -> None:
    """Raise ModelFileError if the file is no chat model, or only a part of one."""
    name = _shown(header.path)
    if header._number("split.count") > 1:
        _require_all_parts(header, name)
    if header.kind != "chat model":
        hint = _HINTS.get(header.kind, "Choose a chat model.")
        raise ModelFileError(f"{name} is not a chat model ({header.kind}). {hint}")
    if not header.architecture:
        raise ModelFileError(f"{name} does not say what type of model it is. Download it again.")


def _require_all_parts(header: GGUFHeader, name: str) -> None:
    count, parts = header._number("split.count"), _parts(header)
    for part in parts:
        if not os.path.exists(part):
            raise ModelFileError(f"{_shown(part)} is missing. Download all {count} parts, under their own names.")
    if header.path != parts[0]:
        raise ModelFileError(f"{name} is one of {count} parts of a model. Choose the first: {_shown(parts[0])}.")


def _parts(header: GGUFHeader) -> list[Path]:
    count = min(header._number("split.count"), _MAX_PARTS)
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", header.path.stem)
    return [header.path.with_name(f"{stem}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1)]


def _read_file(path: Path) -> GGUFHeader:
    name = _shown(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            files = sorted(_shown(Path(file)) for file in os.listdir(path) if file.lower().endswith(".gguf"))
            inside = ", ".join(files[:3]) or "it has none"
            raise ModelFileError(f"{name} is a folder. Choose a .gguf file inside: {inside}.")
        if not stat.S_ISREG(mode):
            raise ModelFileError(f"{name} is a device or a pipe. Choose a .gguf file.")
        with path.open("rb", buffering=65_536) as file:
            return _read_open_file(path, file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError as exc:
        raise ModelFileError(f"File not found: {name}. Check the path.", details=str(exc)) from exc
    except (OSError, ValueError) as exc:  # ValueError: a path with a NUL character
        reason = getattr(exc, "strerror", None) or "its path is not valid"
        raise ModelFileError(f"Cannot read {name}: {reason}. Check its permissions.", details=str(exc)) from exc


def _read_open_file(path: Path, file: BinaryIO, size: int) -> GGUFHeader:
    name = _shown(path)
    head = file.read(512)
    if not head:
        raise ModelFileError(f"{name} is empty. Download it again.")
    if not head.startswith(b"GGUF"):
        raise ModelFileError(f"{name} is {_what_it_is(head, size)}")
    file.seek(0)
    reader = _Reader(file, size, name)
    reader.check_version(version := reader.whole("<4xI"))
    tensor_count, setting_count = reader.whole("<Q"), reader.whole("<Q")
    if tensor_count > _MAX_TENSORS or setting_count > _MAX_SETTINGS:
        reader.refuse(f"its header claims {tensor_count:,} tensors and {setting_count:,} settings")
    for _ in range(setting_count):
        reader.read_setting()
    alignment = reader.metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        reader.refuse("its alignment is no power of two")
    types, end = reader.read_tensors(tensor_count, alignment)
    start = min(size, _MAX_HEADER) - reader.left
    needed = start + (-start % alignment) + end if tensor_count else start
    if needed > 2**50:
        reader.refuse("its header places tensors beyond the end of any file")
    if needed > size:
        units = [("GB", 1e9) if n >= 1e9 else ("MB", 1e6) if n >= 1e6 else ("KB", 1e3) for n in (size, needed)]
        here, whole = (f"{n / by:.1f} {unit}" for n, (unit, by) in zip((size, needed), units, strict=True))
        amounts = f"{here} of {whole}" if here != whole else f"{size:,} of {needed:,} bytes"
        reader.fail(f"is incomplete: {amounts}. Download it again.")
    values, lengths = reader.metadata, reader.array_lengths
    return GGUFHeader(path, size, version, values, lengths, tensor_count, types.total(), dict(types))


class _Reader:
    """Bounded reads of a header that is not to be trusted; `left` bytes may still be read."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self.left = min(size, _MAX_HEADER)
        self.metadata: dict[str, Value] = {}
        self.array_lengths: dict[str, int] = {}
        self._file, self._name = file, name
        self._texts_left, self._kept_left = _MAX_TEXTS, _MAX_KEPT

    def fail(self, text: str) -> NoReturn:
        raise ModelFileError(f"{self._name} {text}")

    def refuse(self, reason: str) -> NoReturn:
        self.fail(f"is damaged: {reason}. Download it again.")

    def take(self, count: int) -> bytes:
        data = self._file.read(count) if count <= self.left else b""
        if len(data) < count:
            self.fail("is incomplete or damaged: its header ends too early. Download it again.")
        self.left -= count
        return data

    def whole(self, code: str) -> int:
        return int(struct.unpack(code, self.take(struct.calcsize(code)))[0])

    def check_version(self, version: int) -> None:
        if version and version & 0xFFFF == 0:
            self.fail("is made for big-endian computers. Download the usual, little-endian file.")
        if version not in (2, 3):
            advice = "too new. Update llama-cpp-python" if version > 3 else "too old. Download a newer file"
            self.fail(f"has GGUF version {version}, which is {advice}.")

    def read_setting(self) -> None:
        length = self.whole("<Q")
        if not self._keeps(length):
            self.refuse("the name of a setting is too long")
        key = self.take(length).decode(errors="replace")
        if key in self.metadata or key in self.array_lengths:
            self.refuse("a setting occurs twice")
        kind = self.whole("<I")
        if kind == _ARRAY:
            self._read_array(key, self.whole("<I"), self.whole("<Q"))
        elif kind == _TEXT:
            length = self.whole("<Q")
            if self._keeps(length):
                self.metadata[key] = self.take(length).decode(errors="replace")
            else:
                self._skip(length)
        elif kind in _SCALARS:
            (self.metadata[key],) = _SCALARS[kind].unpack(self.take(_SCALARS[kind].size))
        else:
            self.refuse(f"a setting has the unknown type {kind}")

    def _read_array(self, key: str, kind: int, length: int) -> None:
        self.array_lengths[key] = length
        if kind == _TEXT:
            self._skip_texts(length)
        elif kind not in _SCALARS:
            self.refuse(f"a setting has the unknown type {kind}")
        elif length <= _MAX_NUMBERS and self._keeps(length * 10):
            self.metadata[key] = tuple(
                n for (n,) in _SCALARS[kind].iter_unpack(self.take(length * _SCALARS[kind].size))
            )
        else:
            self._skip(length * _SCALARS[kind].size)

    def read_tensors(self, count: int, alignment: int) -> tuple[Counter[str], int]:
        types, end = Counter[str](), 0  # end: as an offset from the first tensor's start
        for _ in range(count):
            self._skip(self.whole("<Q"))  # its name
            dimensions = self.whole("<I")
            if dimensions > 4:
                self.refuse(f"a tensor has {dimensions:,} dimensions")
            *shape, kind, offset = struct.unpack(f"<{dimensions}QIQ", self.take(8 * dimensions + 12))
            type_name, block, block_bytes = _TENSOR_TYPES.get(kind, ("unknown", 1, 0))
            elements = math.prod(shape)
            if not 0 < elements <= 2**60 or (shape and shape[0] % block) or offset % alignment:
                self.refuse("a tensor has an impossible shape or place")
            types[type_name] += elements
            end = max(end, offset + elements // block * block_bytes)
        return types, end

    def _skip(self, count: int) -> None:
        if count > self.left:
            self.take(count)
        self._file.seek(count, os.SEEK_CUR)
        self.left -= count

    def _skip_texts(self, count: int) -> None:
        self._texts_left -= count
        if self._texts_left < 0:
            self.refuse("it has too many texts")
        read, seek, left = self._file.read, self._file.seek, self.left
        for _ in range(count):
            head = read(8)
            length = int.from_bytes(head, "little")
            left -= 8 + length
            if left < 0 or len(head) < 8:
                self.take(self.left + 1)
            read(length) if length < 4096 else seek(length, os.SEEK_CUR)  # reading a few bytes is faster
        self.left = left

    def _keeps(self, length: int) -> bool:
        """Say whether a value of this length may be kept, and count it if so."""
        kept = length <= min(_MAX_TEXT, self._kept_left)
        self._kept_left -= length if kept else 0
        return kept


def _what_it_is(head: bytes, size: int) -> str:
    """Name a file that is no GGUF, and what to do about it."""
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return f"a safetensors file. {_GET_GGUF}"
    if head.startswith(b"PK") and b"/data.pkl" in head:
        return f"a PyTorch file. {_GET_GGUF}"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginnings, text in _OTHER_FILES:
        if start.startswith(beginnings):
            return text.format(f"{size:,}")
    is_text = not any(byte < 32 for byte in start if byte not in b"\t\n\f\r\x1b")
    return "a text file, not a model. Choose a .gguf file." if is_text else "no GGUF file. Choose a .gguf file."


def _shown(path: Path) -> str:
    """Return the file's name, without its folder, fit to be shown."""
    return "".join(c if c.isprintable() else "?" for c in path.name[:200]) or "The path"
