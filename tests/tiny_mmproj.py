"""A small image projector for the tiny GGUF models, of LLaVA's kind: real mtmd code runs, without a download.

Each of its patches becomes one token of the chat. Its weights are random but for its one layer, which LLaVA leaves
out: so that each token depends on the colours of its patch and on nothing else.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

IMAGE_SIZE, PATCH_SIZE = 16, 8
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2  # that any picture takes


def write_tiny_mmproj(path: Path, *, width: int = 128, seed: int = 3, sees: bool = True) -> Path:
    """Write a projector for a text model of this width; one that does not see claims to be for sound."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_string("general.type", "mmproj")
    writer.add_string("general.name", "Tiny projector")
    writer.add_bool("clip.has_vision_encoder", sees)
    writer.add_bool("clip.has_audio_encoder", not sees)
    _add_settings(writer, width)
    source = np.random.default_rng(seed)
    for name, shape in _shapes(width).items():
        weight = np.zeros(shape) if ".blk." in name else source.normal(0, 0.3, shape)
        writer.add_tensor(name, weight.astype(np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


def _add_settings(writer: gguf.GGUFWriter, width: int) -> None:
    writer.add_bool("clip.use_gelu", True)
    writer.add_string("clip.projector_type", "mlp")
    numbers = {
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "embedding_length": 32,
        "feed_forward_length": 32,
        "projection_dim": width,
        "block_count": 1,
        "attention.head_count": 1,
    }
    for name, number in numbers.items():
        writer.add_uint32(f"clip.vision.{name}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    layer = {f"attn_{name}": (32, 32) for name in ("q", "k", "v", "out")} | {"ffn_up": (32, 32), "ffn_down": (32, 32)}
    matrices = {f"v.blk.0.{name}.weight": shape for name, shape in layer.items()}
    norms = {f"v.blk.0.ln{n}.{part}": (32,) for n in (1, 2) for part in ("weight", "bias")}
    return {
        "v.patch_embd.weight": (32, 3, PATCH_SIZE, PATCH_SIZE),
        "v.position_embd.weight": (IMAGE_TOKENS, 32),
        **matrices,
        **norms,
        "mm.0.weight": (width, 32),
        "mm.0.bias": (width,),
        "mm.2.weight": (width, width),
        "mm.2.bias": (width,),
    }
