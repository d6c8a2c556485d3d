"""Small image projectors for the tiny GGUF models: real mtmd code runs, without a download.

Their weights are random but for the one layer, which is zero: so that what a token of a picture says depends on the
colours of its patch and on nothing else.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

IMAGE_TOKENS = 4  # that any picture takes of write_tiny_mmproj
LARGE_IMAGE_TOKENS = 1024

Shapes = dict[str, tuple[int, ...]]


def write_tiny_mmproj(path: Path, *, width: int = 128, sees: bool = True) -> Path:
    """Write a projector of LLaVA's kind for a text model of this width; one that does not see says it is for sound."""
    shapes: Shapes = {"mm.0.weight": (width, 32), "mm.0.bias": (width,)}
    shapes |= {"mm.2.weight": (width, width), "mm.2.bias": (width,)}
    return _write(path, "mlp", _tower(patch=8, patches=4) | shapes, width=width, image=16, sees=sees)


def write_large_mmproj(path: Path, *, width: int = 128) -> Path:
    """Write a projector of Gemma 3's kind, whose pictures are read non-causally, in more tokens than a batch has."""
    shapes = _tower(patch=4, patches=64 * 64) | {"v.post_ln.weight": (32,), "v.post_ln.bias": (32,)}
    shapes |= {"mm.input_projection.weight": (32, width), "mm.soft_emb_norm.weight": (32,)}
    return _write(path, "gemma3", shapes, width=width, image=256)


def _write(path: Path, kind: str, shapes: Shapes, *, width: int, image: int, sees: bool = True) -> Path:
    writer = gguf.GGUFWriter(path, "clip")
    for name, text in {"general.type": "mmproj", "clip.projector_type": kind}.items():
        writer.add_string(name, text)
    for name, flag in {"has_vision_encoder": sees, "has_audio_encoder": not sees, "use_gelu": True}.items():
        writer.add_bool(f"clip.{name}", flag)
    patch = shapes["v.patch_embd.weight"][-1]
    sizes = {"image_size": image, "patch_size": patch, "projection_dim": width, "projector.scale_factor": 2}
    sizes |= {"embedding_length": 32, "feed_forward_length": 32, "block_count": 1, "attention.head_count": 1}
    for name, number in sizes.items():
        writer.add_uint32(f"clip.vision.{name}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for name in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{name}", [0.5, 0.5, 0.5])
    source = np.random.default_rng(3)
    for name, shape in shapes.items():
        weight = np.zeros(shape) if ".blk." in name else source.normal(0, 0.3, shape)
        writer.add_tensor(name, weight.astype(np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


def _tower(*, patch: int, patches: int) -> Shapes:
    names = ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_up", "ffn_down")
    layer: Shapes = {f"v.blk.0.{name}.weight": (32, 32) for name in names}
    layer |= {f"v.blk.0.ln{number}.{part}": (32,) for number in (1, 2) for part in ("weight", "bias")}
    return {"v.patch_embd.weight": (32, 3, patch, patch), "v.position_embd.weight": (patches, 32), **layer}
