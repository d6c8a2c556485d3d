"""The engines by themselves, as the limit of what LlamaForge can reach: load a model and answer one token.

python benchmarks/alone.py llama.cpp|huggingface PATH says "loaded" and "answered", and ends with its input.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

MESSAGES = [{"role": "user", "content": "Tell me a story about a llama."}]


def load(engine: str, path: str) -> Callable[[], Any]:
    """Load by the engine's own class, on one thread; return what answers one token."""
    return _llama_cpp(path) if engine == "llama.cpp" else _transformers(path)


def _llama_cpp(path: str) -> Callable[[], Any]:
    from llama_cpp import Llama, llama_cpp

    params = llama_cpp.llama_model_default_params()
    if b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info():
        params.use_extra_bufts = (
            False  # see llamaforge/backends/llama_cpp_native.py, whose import would take time here
        )
    defaults = llama_cpp.llama_model_default_params
    llama_cpp.llama_model_default_params = lambda: params
    try:
        model = Llama(path, n_threads=1, n_threads_batch=1, n_ctx=2048, verbose=False)
    finally:
        llama_cpp.llama_model_default_params = defaults
    return lambda: model.create_chat_completion(MESSAGES, max_tokens=1, temperature=0.0)


def _transformers(path: str) -> Callable[[], Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path)

    def answer() -> Any:
        tokens = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt")
        return model.generate(**tokens, max_new_tokens=1, do_sample=False)

    return answer


if __name__ == "__main__":
    answer = load(*sys.argv[1:])
    print("loaded", flush=True)
    answer()
    print("answered", flush=True)
    sys.stdin.read()
