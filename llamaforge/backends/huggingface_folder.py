"""What a Hugging Face folder says about itself, read from its small files; nothing of it runs."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import hub
from ..errors import ModelFileError
from ..types import ModelCard

LONGEST_HEADER = 100 * 2**20  # as safetensors itself
WANTED = ("model*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TEMPLATES = ("chat_template.jinja", "chat_template.json")
BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}  # all others take one byte or less


@dataclass(frozen=True, slots=True)
class HFFolder:
    """A folder of config.json and safetensors files. Counts are of the text model, also where it sees images."""

    path: Path
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    file_size: int
    parameters: int
    dtypes: tuple[str, ...]
    has_template: bool
    text: Mapping[str, Any] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        names = self.config.get("architectures") or [self.config.get("model_type", "unknown")]
        return str(names[0])

    @property
    def n_layers(self) -> int:
        return self._number("num_hidden_layers", "n_layer", "n_layers")

    @property
    def context_window(self) -> int | None:
        """Return the tokens that the model was trained for, None where it does not say."""
        return self._number("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len") or None

    @property
    def has_eyes(self) -> bool:
        """Whether the model was made for pictures too, and its folder tells how they are prepared."""
        told = any((self.path / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))
        return told and isinstance(self.config.get("vision_config"), dict)

    @property
    def wants_own_code(self) -> bool:
        return bool(self.config.get("auto_map"))

    def kv_cache_bytes(self, window: int, element: int) -> int:
        """Return the bytes of keys and values of a whole context window."""
        heads = self._number("num_attention_heads", "n_head") or 1
        width = self._number("hidden_size", "n_embd")
        heads_kv = self._number("num_key_value_heads") or heads
        head = self._number("head_dim") or width // heads
        return 2 * self.n_layers * heads_kv * head * window * element

    def _number(self, *names: str) -> int:
        return next((int(self.text[name]) for name in names if isinstance(self.text.get(name), int)), 0)


def local_folder(path: str, parameters: Mapping[str, Any]) -> Path | None:
    """Return the folder on this disk; None where it is a repository of the Hub that is not here. Makes no request."""
    hub_path = hub.parse(path)
    if hub_path is None:
        return Path(path).expanduser()
    folder = hub.snapshot(hub_path.repo, parameters.get("revision") or "main", parameters.get("cache_dir"))
    return folder if folder is not None and any(folder.glob("*.safetensors")) else None


def fetched_folder(path: str, parameters: Mapping[str, Any], on_progress: hub.Progress) -> Path:
    """Return the folder on this disk, fetched if need be: weights, settings, and code only where that may run."""
    hub_path = hub.parse(path)
    if hub_path is None:
        return Path(path).expanduser()
    own_code = ("*.py",) if parameters.get("trust_remote_code") else ()
    folder = hub.fetch(
        hub_path,
        allow=WANTED + own_code,
        revision=parameters.get("revision"),
        cache_dir=parameters.get("cache_dir"),
        on_progress=on_progress,
    )
    if not any(folder.glob("*.safetensors")):
        raise ModelFileError(f"{hub_path.repo} has no .safetensors files. Choose a repository that has.")
    return folder


def card_before_download(path: str) -> ModelCard:
    """Return what is known of a repository of the Hub that is not here yet."""
    return ModelCard(facts={"Hub": path, "Here": "not yet; it is downloaded when it is loaded"})


def read_folder(path: Path) -> HFFolder:
    """Read a model's folder.

    Raises:
        ModelFileError: it is missing, no model, incomplete, or holds weights that could run code.
    """
    if not path.exists():
        raise ModelFileError(f"Folder not found: {path.name}. Check the path.")
    if not path.is_dir():
        what = "a GGUF file: choose the backend llama.cpp" if path.suffix.lower() == ".gguf" else "a file"
        raise ModelFileError(f"{path.name} is {what}. The backend huggingface takes a folder with a config.json.")
    config = _json(path, "config.json")
    if config is None:
        raise ModelFileError(f"{path.name} holds no config.json, so it is no Hugging Face model. Choose its folder.")
    files = _weights(path)
    headers = [_header(file) for file in files]
    tensors = [tensor for header in headers for name, tensor in header.items() if name != "__metadata__"]
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    return HFFolder(
        path=path,
        config=config,
        generation=_json(path, "generation_config.json") or {},
        file_size=sum(file.stat().st_size for file in files),
        parameters=sum(math.prod(tensor["shape"]) for tensor in tensors),
        dtypes=tuple(sorted({tensor["dtype"] for tensor in tensors})),
        has_template=_has_template(path),
        text=text or {},
    )


def _weights(path: Path) -> list[Path]:
    """Return the safetensors files of a model; those of an index are all of them."""
    index = _json(path, "model.safetensors.index.json")
    names = sorted(set(index.get("weight_map", {}).values())) if index is not None else []
    files = [path / name for name in names] or sorted(path.glob("*.safetensors"))
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelFileError(f"{path.name} is incomplete: {missing[0]} is missing. Download the model again.")
    if files:
        return files
    if any(found for pattern in PICKLES for found in path.glob(pattern)):
        raise ModelFileError(
            f"{path.name} holds its weights in the old .bin format, which can run code on your computer. "
            "Use a version with .safetensors files."
        )
    raise ModelFileError(f"{path.name} holds no .safetensors files. Download the model again.")


def _header(file: Path) -> dict[str, Any]:
    """Read the header of a safetensors file: eight bytes of length, then JSON; the weights follow."""
    damaged = ModelFileError(f"{file.name} is damaged. Download the model again.")
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start.startswith(b"version "):
            raise ModelFileError(f"{file.name} is a Git LFS placeholder, not the weights. Run: git lfs pull")
        if len(start) < 8:
            raise damaged
        (length,) = struct.unpack("<Q", start)
        if length > min(LONGEST_HEADER, size - 8):
            raise damaged
        try:
            header = json.loads(stream.read(length))
            tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
            end = max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
            shapes = [tensor["shape"] + [tensor["dtype"]] for tensor in tensors]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise damaged from error
    if not shapes or 8 + length + end > size:
        raise ModelFileError(f"{file.name} is incomplete. Download the model again.")
    return dict(header)


def _json(path: Path, name: str) -> dict[str, Any] | None:
    file = path / name
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{name} of {path.name} cannot be read. Download the model again.") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"{name} of {path.name} is damaged. Download the model again.")
    return content


def _has_template(path: Path) -> bool:
    settings = _json(path, "tokenizer_config.json") or {}
    return bool(settings.get("chat_template")) or any(map(Path.is_file, map(path.joinpath, TEMPLATES)))
