"""A small recurrent model (Mamba) of random weights: one that cannot go back in what it has read."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import tiny_gguf

WIDTH, INNER, STATE, RANK, KERNEL, LAYERS = 64, 128, 16, 4, 4, 2


def write_tiny_mamba(path: Path) -> Path:
    """Write the model; its answers are letters without end, and each depends on all before it."""
    writer = gguf.GGUFWriter(path, "mamba")
    tokens, merges = tiny_gguf._vocabulary([])
    sizes = {
        "block_count": LAYERS,
        "context_length": 2048,
        "embedding_length": WIDTH,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "ssm.conv_kernel": KERNEL,
        "ssm.inner_size": INNER,
        "ssm.state_size": STATE,
        "ssm.time_step_rank": RANK,
    }
    settings = {f"mamba.{key}": value for key, value in sizes.items()}
    for key, value in (settings | tiny_gguf._tokenizer_settings(tokens, merges, tiny_gguf.CHATML)).items():
        tiny_gguf._add_setting(writer, key, value)
    random = np.random.default_rng(7)
    shapes = {
        "ssm_in.weight": (2 * INNER, WIDTH),
        "ssm_conv1d.weight": (INNER, KERNEL),
        "ssm_conv1d.bias": (INNER,),
        "ssm_x.weight": (RANK + 2 * STATE, INNER),
        "ssm_dt.weight": (INNER, RANK),
        "ssm_dt.bias": (INNER,),
        "ssm_d": (INNER,),
        "ssm_out.weight": (WIDTH, INNER),
    }
    weights = {f"blk.{n}.{name}": random.normal(0, 0.3, size) for n in range(LAYERS) for name, size in shapes.items()}
    weights |= {f"blk.{n}.attn_norm.weight": np.ones(WIDTH) for n in range(LAYERS)}
    weights |= {f"blk.{n}.ssm_a": -np.abs(random.normal(0, 0.1, (INNER, STATE))) for n in range(LAYERS)}
    weights |= {"token_embd.weight": random.normal(0, 0.3, (len(tokens), WIDTH)), "output_norm.weight": np.ones(WIDTH)}
    output = random.normal(0, 0.3, (len(tokens), WIDTH))
    output[[not tiny_gguf._plain(token) for token in tokens]] = 0
    for name, weight in (weights | {"output.weight": output}).items():
        writer.add_tensor(name, weight.astype(np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path
