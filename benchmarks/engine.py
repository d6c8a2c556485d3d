"""Is LlamaForge as fast as its engines? Tokens per second and per CPU-second, every side in turn, medians of pairs.

llama.cpp: LlamaForge in this process and in its worker, against llama-cpp-python's own streaming call and against a
loop of llama_decode, sampler and token_to_piece as the limit. transformers: LlamaForge against a loop over
TextIteratorStreamer. All are given the same tokens and settings, one thread, and say the same text, which is checked.

python benchmarks/engine.py [--pairs 9] [--plot engine.png] [--quick]
"""

from __future__ import annotations

import argparse
import codecs
import ctypes
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import llama_cpp
import psutil
from models import QUICK, Shape, random_folder, random_model, tiny_model
from report import in_turns, machine, ratio, save_plot, table

from llamaforge import LlamaForge, Message
from llamaforge.backends.llama_cpp_native import llama_class

QUESTION = "Tell me a story about a llama."
LOAD = {"n_threads": 1, "n_ctx": 4096, "n_batch": 512, "flash_attn": False}
COLUMNS = ("side", "tok/s", "tok/CPU-s", "LlamaForge is", "by CPU", "chars at once")
AMX = "llama-cpp-python with AMX"  # what it does by itself on such a processor
GREEDY = {"temperature": 0.0, "seed": 1}
SAMPLED = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "repeat_penalty": 1.0, "seed": 1}


@dataclass(frozen=True, slots=True)
class Run:
    """One answer: its tokens per second and per CPU-second, its text, and the most characters that came at once."""

    speed: float
    cpu_speed: float
    text: str
    parcel: int


def timed(stream: Callable[[], Iterable[str]], tokens: int, workers: Iterable[psutil.Process] = ()) -> Run:
    """Read a stream to its end; the CPU-seconds of worker processes count too."""
    cpu, wall = _cpu_seconds(workers), time.perf_counter()
    pieces = list(stream())
    seconds, cpu = time.perf_counter() - wall, _cpu_seconds(workers) - cpu
    return Run(tokens / seconds, tokens / cpu, "".join(pieces), max(map(len, pieces)))


def _cpu_seconds(workers: Iterable[psutil.Process]) -> float:
    return time.process_time() + sum(sum(worker.cpu_times()[:2]) for worker in workers)


@contextmanager
def opened(path: Path, backend: str, parameters: Mapping[str, Any], *, isolate: bool = False) -> Iterator[LlamaForge]:
    with tempfile.TemporaryDirectory() as config:
        forge = LlamaForge(config, isolate=isolate)
        forge.add_model("model", str(path), backend, parameters)
        forge.load_model("model")
        yield forge
        forge.unload_model()


def our_stream(forge: LlamaForge, tokens: int, sampling: Mapping[str, Any]) -> Iterator[str]:
    return iter(forge.generate_stream(QUESTION, {**sampling, "max_tokens": tokens}))


def plain_stream(llama: Any, prompt: list[int], tokens: int, sampling: Mapping[str, Any]) -> Iterator[str]:
    """llama-cpp-python as its README shows it."""
    for part in llama.create_completion(prompt, max_tokens=tokens, stream=True, **sampling):
        if text := part["choices"][0]["text"]:
            yield text


def low_level_stream(llama: Any, prompt: list[int], tokens: int, sampling: Mapping[str, Any]) -> Iterator[str]:
    """The least that must be done for a token: llama_decode, the sampler chain, token_to_piece, UTF-8."""
    vocab = llama_cpp.llama_model_get_vocab(llama.model)
    llama.set_seed(sampling["seed"])
    chain = llama._init_sampler(
        **{("temp" if k == "temperature" else k): v for k, v in sampling.items() if k != "seed"}
    )
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    buffer = ctypes.create_string_buffer(256)
    # As the other sides do, it evaluates only what the KV cache does not hold: the plain side has put it there.
    known = len(prompt) - 1 if llama.n_tokens >= len(prompt) else 0
    llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(llama.ctx), 0, known, -1)
    given = (ctypes.c_int32 * (len(prompt) - known))(*prompt[known:])
    for _ in range(tokens):
        assert llama_cpp.llama_decode(llama.ctx, llama_cpp.llama_batch_get_one(given, len(given))) == 0
        token = llama_cpp.llama_sampler_sample(chain.sampler, llama.ctx, -1)
        if llama_cpp.llama_vocab_is_eog(vocab, token):
            return
        length = llama_cpp.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, False)
        if text := decoder.decode(buffer.raw[:length]):
            yield text
        given = (ctypes.c_int32 * 1)(token)


def llama_cpp_runs(path: Path, tokens: int, sampling: Mapping[str, Any], pairs: int) -> dict[str, list[Run]]:
    with ExitStack() as stack:
        near = stack.enter_context(opened(path, "llama.cpp", LOAD))
        far = stack.enter_context(opened(path, "llama.cpp", LOAD, isolate=True))
        llama = stack.enter_context(loaded(path))
        prompt = near.prompt([Message("user", QUESTION)])
        assert prompt is not None
        ids = llama.tokenize(prompt.text.encode(), add_bos=False, special=True)
        assert len(ids) == prompt.tokens
        worker = [psutil.Process(far._engine.backend.pid)]
        sides = {
            "LlamaForge": partial(timed, lambda: our_stream(near, tokens, sampling), tokens),
            "in its worker": partial(timed, lambda: our_stream(far, tokens, sampling), tokens, worker),
            "llama-cpp-python": partial(timed, lambda: plain_stream(llama, ids, tokens, sampling), tokens),
            "low-level loop": partial(timed, lambda: low_level_stream(llama, ids, tokens, sampling), tokens),
        }
        require_same_text(sides)
        if b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info() and "f32" not in path.stem:
            with_amx = stack.enter_context(loaded(path, amx=True))  # rounds otherwise, so it may say another text
            sides[AMX] = partial(timed, lambda: plain_stream(with_amx, ids, tokens, sampling), tokens)
            sides[AMX]()
        return in_turns(sides, pairs)


@contextmanager
def loaded(path: Path, *, amx: bool = False) -> Iterator[Any]:
    """Load a model with llama-cpp-python alone, and as LlamaForge does: without code for Intel's AMX."""
    make = llama_cpp.Llama if amx else llama_class(lambda _share: True)
    with closing(make(str(path), **LOAD, n_threads_batch=1, verbose=False)) as llama:
        yield llama


def transformers_runs(folder: Path, tokens: int, pairs: int) -> dict[str, list[Run]]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with opened(folder, "huggingface", {"device": "cpu"}) as forge:
        prompt = forge.prompt([Message("user", QUESTION)])
        assert prompt is not None
        ids = tokenizer(prompt.text, add_special_tokens=False, return_tensors="pt")
        sides = {
            "LlamaForge": partial(timed, lambda: our_stream(forge, tokens, GREEDY), tokens),
            "TextIteratorStreamer": partial(timed, lambda: streamer_stream(model, tokenizer, ids, tokens), tokens),
        }
        require_same_text(sides)
        return in_turns(sides, pairs)


def streamer_stream(model: Any, tokenizer: Any, ids: Mapping[str, Any], tokens: int) -> Iterator[str]:
    """transformers as its documentation shows it: generate() in a thread, and a loop over the streamer."""
    from transformers import TextIteratorStreamer

    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    arguments = {**ids, "streamer": streamer, "max_new_tokens": tokens, "do_sample": False}
    thread = threading.Thread(target=model.generate, kwargs=arguments)
    thread.start()
    yield from (text for text in streamer if text)
    thread.join()


def require_same_text(sides: Mapping[str, Callable[[], Run]]) -> None:
    """Run each side twice, so that all have their prompt cached, and compare what they say."""
    texts = [[side().text for _ in range(2)][-1] for side in sides.values()]
    assert len(set(texts)) == 1, f"they do not say the same: {[text[:60] for text in texts]}"


def rows_of(name: str, runs: Mapping[str, list[Run]]) -> list[list[object]]:
    """Return a row a side: its medians, what LlamaForge in this process is to it, and the longest wait for text."""
    ours = runs["LlamaForge"]
    return [
        [
            f"{name}: {side}",
            statistics.median(run.speed for run in theirs),
            statistics.median(run.cpu_speed for run in theirs),
            ratio([run.speed for run in ours], [run.speed for run in theirs]),
            ratio([run.cpu_speed for run in ours], [run.cpu_speed for run in theirs]),
            max(run.parcel for run in theirs),
        ]
        for side, theirs in runs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--only", default="", help="a part of the names of what is measured: tiny, sampled, …")
    parser.add_argument("--quick", action="store_true", help="does it run? one pair of short answers of small models")
    flags = parser.parse_args()
    pairs, shape = (1, QUICK) if flags.quick else (flags.pairs, Shape())
    short, long = (16, 200) if flags.quick else (96, 3000)
    print(machine("llama-cpp-python", "torch", "transformers"))
    name = f"{shape.name}, {short}"
    measured = {
        f"tiny, {long:,} tokens": lambda: llama_cpp_runs(tiny_model(), long, GREEDY, pairs),
        f"{name} tokens": lambda: llama_cpp_runs(random_model(shape), short, GREEDY, pairs),
        f"{name} sampled": lambda: llama_cpp_runs(random_model(shape), short, SAMPLED, pairs),
        f"{name} transformers": lambda: transformers_runs(random_folder(shape), short, pairs),
    }
    runs: dict[str, dict[str, list[Run]]] = {}
    for name, run in measured.items():
        if flags.only in name:
            runs[name] = run()
            table(f"{name}, medians of {pairs} rounds", COLUMNS, rows_of(name, runs[name]))
    if flags.plot:
        groups = {
            name: {
                side: ratio([r.speed for r in sides["LlamaForge"]], [r.speed for r in theirs])
                for side, theirs in sides.items()
                if side != "LlamaForge"
            }
            for name, sides in runs.items()
        }
        save_plot(flags.plot, "Speed of LlamaForge against …", "times as fast", groups)


if __name__ == "__main__":
    main()
