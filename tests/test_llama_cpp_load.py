"""Loading GGUF files with the real llama.cpp: what is refused and how, and what each load parameter does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import pytest
from scripted import claim_version, run_python
from tiny_gguf import DEFAULT_ANSWER, damaged_variants
from tiny_gguf import write_tiny_gguf as write

from llamaforge import BackendMissing, LlamaForge, ModelError, ModelFileError, OutOfMemory, ParameterError
from llamaforge import forge as forge_module
from llamaforge.backends import llama_cpp_fit as fit_module
from llamaforge.backends.llama_cpp import LlamaCppBackend
from llamaforge.memory import HEADROOM, Memory

Load = Callable[..., LlamaForge]


class Watched(LlamaCppBackend):
    """Notes how far each load has come; one may be stopped at its first sign of life."""

    def __init__(self, *, stop: bool = False) -> None:
        super().__init__()
        self.seen: list[float | None] = []
        self.stop_at_once = stop

    def _loaded_so_far(self, share: float) -> bool:
        if self.stop_at_once:
            self.stop()
        goes_on = super()._loaded_so_far(share)
        self.seen.append(self.load_progress().share)  # type: ignore[union-attr]
        return goes_on


Forge = Callable[..., LlamaForge]

SMALL_MACHINE = Memory(ram_total=2 * 10**9, ram_free=10**9)
# Headers that read well and models that are none: only the engine can tell.
WRONG_MODELS: dict[str, dict[str, Any]] = {
    "unknown architecture": {"architecture": "llama9000"},
    "no heads": {"metadata": {"llama.attention.head_count": 0}},
    "too many layers": {"metadata": {"llama.block_count": 9}},
    "wrong width": {"metadata": {"llama.embedding_length": 128}},
    "wrong heads": {"metadata": {"llama.attention.head_count_kv": 3}},
    "no context length": {"metadata": {"llama.context_length": None}},
    "no tokens": {"metadata": {"tokenizer.ggml.tokens": None}},
    "no tokenizer": {"metadata": {"tokenizer.ggml.model": None}},
    "unknown tokenizer": {"metadata": {"tokenizer.ggml.model": "mystery"}},
    "too few tokens": {"metadata": {"tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.token_type": [1, 1]}},
}
# Each of these makes llama.cpp abort the whole process.
ABORTING: dict[str, tuple[dict[str, Any], str]] = {
    "no layers": ({"llama.block_count": 0}, "0 layers"),
    "513 layers": ({"llama.block_count": 513}, "513 layers"),
    "2^31 layers": ({"llama.block_count": 2**31}, "2,147,483,648 layers"),
    "experts that rest": ({"llama.expert_count": 8}, "0 of 8 experts"),
    "experts that are not there": ({"llama.expert_used_count": 2}, "2 of 0 experts"),
    "too many experts": ({"llama.expert_count": 1000, "llama.expert_used_count": 2}, "2 of 1,000 experts"),
    "context": ({"llama.context_length": 2**31}, "a context of 2,147,483,648 tokens"),
    "scaling": ({"llama.rope.scaling.type": "odd"}, "the scaling 'odd'"),
}
# In a process of its own: what other tests have left behind is freed at any time, or grows.
AGAIN_AND_AGAIN = """
import sys, psutil
from llamaforge.backends.llama_cpp import LlamaCppBackend
backend, sizes = LlamaCppBackend(), []
for _ in range(16):
    backend.load_model(sys.argv[1], {"n_threads": 1, "n_ctx": 512, "use_mmap": False})
    sizes.append(psutil.Process().memory_info().rss)
print(sizes[0], sizes[-1])
"""
OUT_OF_MEMORY = """
import gc, resource, sys, llama_cpp
from llamaforge import ModelError
from llamaforge.backends.llama_cpp import LlamaCppBackend
backend = LlamaCppBackend()
backend.load_model(sys.argv[1], {"n_threads": 1, "n_ctx": 512})
backend.unload_model()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
try:
    backend.load_model(sys.argv[1], {"n_threads": 1, "n_ctx": 2_000_000})
except ModelError as error:
    kept = error
    print(error)
print([model for model in gc.get_objects() if isinstance(model, llama_cpp.Llama)])
backend.load_model(sys.argv[1], {"n_threads": 1, "n_ctx": 512})
print(len(backend.generate("hi", {"max_tokens": 5})))
"""


def answers(forge: LlamaForge) -> bool:
    return forge.generate("hi", {"temperature": 0}) == DEFAULT_ANSWER


def window_of(forge: LlamaForge) -> int | None:
    return forge.status.context_window


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> dict[str, Path]:
    return damaged_variants(tiny_gguf, tmp_path_factory.mktemp("damaged"))


def test_no_damaged_file_costs_the_loaded_model(forge: Forge, tiny_gguf: Path, damaged: dict[str, Path]) -> None:
    checked = {name: path for name, path in damaged.items() if name not in ("unknown_architecture", "zero_heads")}
    loaded = forge(tiny=tiny_gguf, **checked)
    loaded.load_model("tiny")
    assert len(checked) > 40
    for name, path in checked.items():
        with pytest.raises(ModelFileError) as caught:
            loaded.load_model(name)
        assert str(caught.value).startswith(name) and str(path.parent) not in str(caught.value)
        assert (loaded.status.state, loaded.status.model) == ("ready", "tiny")
    assert answers(loaded)


@pytest.mark.parametrize("name", WRONG_MODELS)
def test_what_only_the_engine_can_refuse_is_a_sentence(
    forge: Forge, tiny_gguf: Path, tmp_path: Path, name: str
) -> None:
    loaded = forge(tiny=tiny_gguf, wrong=write(tmp_path / "wrong.gguf", width=64, layers=1, **WRONG_MODELS[name]))
    loaded.load_model("tiny")
    with pytest.raises(ModelFileError) as caught:
        loaded.load_model("wrong")
    assert "wrong.gguf" in str(caught.value) and str(tmp_path) not in str(caught.value)
    assert caught.value.details and (loaded.status.state, loaded.status.error) == ("empty", caught.value)
    loaded.load_model("tiny")
    assert answers(loaded)


@pytest.mark.parametrize("name", ABORTING)
def test_what_the_engine_would_abort_at_is_refused_before(
    forge: Forge, tiny_gguf: Path, tmp_path: Path, name: str
) -> None:
    metadata, claim = ABORTING[name]
    wrong = write(tmp_path / "wrong.gguf", width=64, layers=1, metadata=metadata)
    loaded = forge(tiny=tiny_gguf, wrong=wrong)
    loaded.load_model("tiny")
    for load in (lambda: loaded.load_model("wrong"), lambda: LlamaCppBackend().load_model(str(wrong))):
        with pytest.raises(ModelFileError) as caught:
            load()
        assert str(caught.value) == f"wrong.gguf is damaged: its header claims {claim}. Download it again."
    assert answers(loaded)


def test_an_unknown_architecture_says_so(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="of a type that llama-cpp-python .* does not know. Update") as caught:
        load(write(tmp_path / "new.gguf", architecture="llama9000"))
    assert "unknown model architecture: 'llama9000'" in caught.value.details


def test_weights_cut_off_after_the_check_are_a_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.gguf", width=64, layers=1)
    LlamaCppBackend().check(str(path), {})
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ModelFileError, match="cut.gguf is incomplete"):
        LlamaCppBackend().load_model(str(path))


@pytest.mark.parametrize(
    ("trained", "window"),
    [(2048, 2048), (32_768, 8192), (8192, 8192), (2000, 2000), (100, 100), (1, 1)],
)
def test_the_context_window_is_the_trained_one_up_to_8192(
    load: Load, tmp_path: Path, trained: int, window: int
) -> None:
    path = write(tmp_path / "model.gguf", n_ctx_train=trained)
    forge = load(path)
    assert window_of(forge) == window == forge.card("model").defaults["n_ctx"]
    assert forge.card("model").limits["n_ctx"] == trained


@pytest.mark.parametrize("n_ctx", [256, 257, 1000, 4096])
def test_the_context_window_is_what_was_asked_for(load: Load, tiny_gguf: Path, n_ctx: int) -> None:
    forge = load(tiny_gguf, n_ctx=n_ctx)
    assert window_of(forge) == n_ctx and answers(forge)


def test_where_memory_is_short_the_window_is_shorter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = str(write(tmp_path / "model.gguf", layers=1, width=64, n_ctx_train=131_072))
    backend = LlamaCppBackend()
    whole = backend.memory_needed(path, {"n_ctx": 8192}).total + HEADROOM
    windows = []
    for free in (whole, whole - 1, HEADROOM):
        monkeypatch.setattr(fit_module, "measure", lambda gpus, free=free: Memory(10**12, free))
        windows.append(backend.memory_needed(path, {}))
    asked = [backend.memory_needed(path, {"n_ctx": n_ctx}) for n_ctx in (8192, 4096, 2048)]
    assert windows == asked


def test_a_window_that_no_memory_holds_is_refused_and_the_model_stays(
    load: Load, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forge_module, "measure", lambda gpus: SMALL_MACHINE)
    forge = load(tiny_gguf, n_ctx=512)
    with pytest.raises(OutOfMemory, match="This model needs about .* GB with its context window") as caught:
        forge.load_model("model", {"n_ctx": 10_000_000})
    assert "this machine has 2.0 GB in all. Lower n_ctx" in str(caught.value)
    assert window_of(forge) == 512 and answers(forge)


def test_a_window_that_is_more_than_is_free_is_a_warning(
    load: Load, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forge_module, "measure", lambda gpus: Memory(ram_total=10**12, ram_free=10**6))
    forge = load(tiny_gguf)
    warning = forge.check_model("model", {"n_ctx": 16_384})
    assert warning is not None and "are free. Lower n_ctx" in warning
    forge.load_model("model", {"n_ctx": 16_384})
    assert answers(forge)


def test_what_unloading_gives_back_counts_as_free(
    load: Load, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge = load(tiny_gguf, n_ctx=4096)
    weights = tiny_gguf.stat().st_size
    monkeypatch.setattr(forge_module, "measure", lambda gpus: Memory(ram_total=10**12, ram_free=weights))
    assert forge.check_model("model", {"n_ctx": 4096}) is None
    assert forge.check_model("model", {"n_ctx": 4352}) is not None
    forge.unload_model()
    assert forge.check_model("model", {"n_ctx": 4096}) is not None


def test_an_estimate_that_was_wrong_is_a_sentence_and_gives_the_memory_back(tiny_gguf: Path) -> None:
    done = run_python(OUT_OF_MEMORY, tiny_gguf)
    assert done.returncode == 0, done.stderr
    refused, held, answer = done.stdout.splitlines()
    assert refused.startswith("There is not enough memory for tiny.gguf. Lower n_gpu_layers or n_ctx")
    assert held == "[]" and int(answer) > 0


def test_a_cache_of_32_bits_takes_twice_the_memory_and_answers_the_same(load: Load, tiny_gguf: Path) -> None:
    backend = LlamaCppBackend()
    small, large = (backend.memory_needed(str(tiny_gguf), {"n_ctx": 1024, "f16_kv": half}) for half in (True, False))
    assert large.kv_cache == 2 * small.kv_cache == 2 * 2 * 2 * 128 * 1024 * 2
    assert (large.weights, large.compute) == (small.weights, small.compute)
    assert answers(load(tiny_gguf, f16_kv=False))


def test_the_need_counts_the_file_and_what_a_batch_takes(tiny_gguf: Path) -> None:
    backend = LlamaCppBackend()
    need = backend.memory_needed(str(tiny_gguf), {"n_ctx": 2048})
    assert need.weights == tiny_gguf.stat().st_size
    smaller: list[dict[str, Any]] = [{"n_batch": 64}, {"flash_attn": True}, {"n_ctx": 1024}]
    for one in smaller:
        assert 0 < backend.memory_needed(str(tiny_gguf), {"n_ctx": 2048} | one).compute < need.compute


@pytest.mark.parametrize(
    "parameters",
    [
        {"flash_attn": True},
        {"n_batch": 1},
        {"n_batch": 7},
        {"n_batch": 16_384},
        {"use_mmap": False},
        {"n_gpu_layers": 0},
        {"n_gpu_layers": -1},
        {"n_gpu_layers": 9999},
        {"f16_kv": False, "flash_attn": True, "n_batch": 64, "use_mmap": False},
    ],
    ids=str,
)
def test_load_parameters_do_not_change_the_answer(load: Load, tiny_gguf: Path, parameters: dict[str, Any]) -> None:
    assert answers(load(tiny_gguf, **parameters))


def test_load_parameters_reach_the_engine(load: Load, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(llama_cpp.Llama, "__init__", recording(llama_cpp.Llama.__init__, asked))
    load(tiny_gguf, n_batch=64, f16_kv=False, flash_attn=True, use_mmap=False, use_mlock=False, n_ctx=1000)
    expected = {"n_batch": 64, "type_k": 0, "type_v": 0, "flash_attn": True, "use_mmap": False, "use_mlock": False}
    assert asked[0].items() >= expected.items()
    assert (asked[0]["n_ctx"], asked[0]["n_threads"], asked[0]["n_threads_batch"]) == (1024, 1, 1)
    load(tiny_gguf, n_threads_batch=2)
    assert (asked[1]["n_threads"], asked[1]["n_threads_batch"]) == (1, 2)


def recording(method: Callable[..., None], asked: list[dict[str, Any]]) -> Callable[..., None]:
    def init(self: object, **arguments: Any) -> None:
        asked.append(arguments)
        method(self, **arguments)

    return init


@pytest.mark.parametrize(
    ("name", "value"), [("n_gpu_layers", -5), ("n_ctx", 0), ("n_ctx", 2**31), ("n_batch", 0), ("n_threads", 0)]
)
def test_a_load_parameter_out_of_range_is_refused(load: Load, tiny_gguf: Path, name: str, value: int) -> None:
    forge = load(tiny_gguf)
    with pytest.raises(ParameterError, match=f"{name} must be a whole number from .* found {value}"):
        forge.load_model("model", {name: value})
    assert answers(forge)


def test_the_card_tells_what_the_file_is(tiny_gguf: Path, tmp_path: Path) -> None:
    facts = LlamaCppBackend().describe(str(tiny_gguf)).facts
    assert (facts["Architecture"], facts["Quantisation"], facts["Trained context"]) == ("llama", "F32", "2,048 tokens")
    assert (facts["Chat template"], facts["File"]) == ("its own", "5.8 MB")
    plain = write(tmp_path / "plain.gguf", chat_template=None)
    assert LlamaCppBackend().describe(str(plain)).facts["Chat template"].startswith("none: plain")


def test_a_backend_that_holds_nothing_says_so() -> None:
    backend = LlamaCppBackend()
    backend.unload_model()
    assert not backend.is_model_loaded() and tuple(backend.summary()) == () and tuple(backend.warnings()) == ()
    for ask in (lambda: next(iter(backend.generate_stream("hi"))), lambda: backend.count_tokens("hi")):
        with pytest.raises(ModelError, match="No model is loaded in this backend. Call load_model first."):
            ask()


def test_a_backend_used_by_itself_may_load_one_file_after_another(tiny_gguf: Path, endless_gguf: Path) -> None:
    backend = LlamaCppBackend()
    for path, text in ((tiny_gguf, "Hello! I "), (endless_gguf, "one two ")):
        backend.load_model(str(path), {"n_threads": 1})
        assert backend.generate("hi", {"max_tokens": 2}) == text
    backend.unload_model()
    backend.unload_model()
    assert not backend.is_model_loaded()


def test_the_file_may_be_given_from_home(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny_gguf.parent))
    assert LlamaCppBackend().describe("~/tiny.gguf").facts["Layers"] == "2"


def test_the_path_may_hold_blanks_and_any_script(load: Load, tmp_path: Path) -> None:
    folder = tmp_path / "my models" / "модели 日本 🦙"
    folder.mkdir(parents=True)
    assert answers(load(write(folder / "an answer.gguf")))


def test_a_file_written_anew_is_read_anew(tmp_path: Path) -> None:
    path, backend = tmp_path / "model.gguf", LlamaCppBackend()
    for layers in (1, 2):
        write(path, width=64, layers=layers)
        assert backend.describe(str(path)).limits["n_gpu_layers"] == layers


def test_loading_again_and_again_does_not_leak(slow_gguf: Path) -> None:
    done = run_python(AGAIN_AND_AGAIN, slow_gguf)
    assert done.returncode == 0, done.stderr
    first, last = map(int, done.stdout.split())
    # The C library keeps some of what it was given back; fifteen models that were not would be far more.
    assert last - first < 5 * slow_gguf.stat().st_size


def test_a_load_tells_its_progress_from_nothing_to_all(tiny_gguf: Path) -> None:
    backend = Watched()
    backend.load_model(str(tiny_gguf), {"n_threads": 1})
    assert backend.seen == sorted(backend.seen) and backend.seen[-1] == 1.0  # type: ignore[type-var]
    assert backend.load_progress() is None and backend.is_model_loaded()
    backend.unload_model()


def test_a_load_in_this_process_can_be_given_up_and_tried_again(tiny_gguf: Path) -> None:
    backend = Watched(stop=True)
    with pytest.raises(ModelError, match="Loading was given up."):
        backend.load_model(str(tiny_gguf), {"n_threads": 1})
    assert not backend.is_model_loaded()
    backend.stop_at_once = False
    backend.load_model(str(tiny_gguf), {"n_threads": 1})
    assert backend.generate("hi") is not None
    backend.unload_model()


def test_a_gpu_that_this_build_cannot_use_is_told_with_the_install_line(
    load: Load, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'Forge RTX 9000, 24576, 20000'\n", "utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    if llama_cpp.llama_supports_gpu_offload():
        pytest.fail("this build can use a GPU, so there is nothing to advise")
    (advice,) = load(tiny_gguf).status.warnings
    assert "Forge RTX 9000" in advice and 'CMAKE_ARGS="-DGGML_CUDA=on" pip install' in advice


def test_a_llama_cpp_python_that_is_too_old_is_told_with_the_install_line(
    forge: Forge, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_version(tmp_path / "site", "llama-cpp-python", "0.2.90")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(BackendMissing, match=r"0\.2\.90 is too old. Update it: pip install"):
        forge(model=tiny_gguf).load_model("model")


@pytest.mark.parametrize("kind", ["MOSTLY_Q8_0", "MOSTLY_Q4_0"])
def test_a_quantised_model_answers_whatever_the_processor_has(load: Any, tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "small.gguf", file_type=gguf.LlamaFileType[kind])
    assert load(path).generate("Hello") == DEFAULT_ANSWER
