"""How fast is a model in the worker against the same model in this process? Nine interleaved pairs, their median.

python benchmarks/worker.py [--tokens 200] [--pairs 9]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from models import small_model  # noqa: E402
from tiny_gguf import COUNTING_ANSWER, write_tiny_gguf  # noqa: E402

from llamaforge import LlamaForge  # noqa: E402

PROMPT = "Tell me a story about a llama."


def speed(forge: LlamaForge, tokens: int) -> float:
    generation = forge.generate_stream(PROMPT, {"max_tokens": tokens, "temperature": 0.0})
    result = generation.wait()
    assert result is not None and result.error is None, result
    assert result.tokens_per_second is not None
    return result.tokens_per_second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=9)
    flags = parser.parse_args()
    folder = Path(tempfile.gettempdir()) / "llamaforge-benchmarks"
    tiny = folder / "tiny.gguf"
    folder.mkdir(exist_ok=True)
    write_tiny_gguf(tiny, COUNTING_ANSWER, endless=True)
    print(f"{'model':8} {'in-process':>12} {'worker':>12} {'ratio':>7}   (tokens/s, medians of {flags.pairs} pairs)")
    for name, path, tokens in (("tiny", tiny, 1000), ("125M", small_model(folder), flags.tokens)):
        with tempfile.TemporaryDirectory() as config:
            near, far = LlamaForge(config), LlamaForge(config, isolate=True)
            for forge in (near, far):
                forge.add_model(name, str(path), "llama.cpp", {"n_threads": 1, "n_ctx": 2048})
                forge.load_model(name)
                speed(forge, 20)
            pairs = [(speed(near, tokens), speed(far, tokens)) for _ in range(flags.pairs)]
            near.unload_model()
            far.unload_model()
        ratio = statistics.median(worker / process for process, worker in pairs)
        medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
        print(f"{name:8} {medians[0]:12.1f} {medians[1]:12.1f} {ratio:7.3f}")


if __name__ == "__main__":
    main()
