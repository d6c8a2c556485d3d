"""The Hugging Face backend with real transformers on tiny models that the tests write themselves."""

from __future__ import annotations

import importlib.util
import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_stand_in import Hub
from scripted import PATIENCE, run_python, until
from tiny_gguf import COUNTING_ANSWER, DEFAULT_ANSWER, THINKING_ANSWER
from tiny_hf import write_random_pair, write_tiny_hf
from worker_kit import result_of

from llamaforge import (
    BackendMissing,
    Chunk,
    ContextOverflow,
    LlamaForge,
    Message,
    ModelError,
    ModelFileError,
    ParameterError,
    Setting,
    hub,
    validate,
)
from llamaforge.backends.huggingface import HuggingFaceBackend, HuggingFaceParameters

GREEDY = {"temperature": 0.0}
ENGINE, CONFIG = "the engine's default", "generation_config.json"  # where an unset value comes from


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Spinning threads on a busy machine cost tenfold."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="module")
def tiny(folders: Path) -> Path:
    return write_tiny_hf(folders / "tiny")


@pytest.fixture(scope="module")
def endless(folders: Path) -> Path:
    return write_tiny_hf(folders / "endless", COUNTING_ANSWER, endless=True, layers=4, n_ctx_train=8192)


@pytest.fixture(scope="module")
def random(folders: Path) -> Path:
    return write_random_pair(folders)[1]


@pytest.fixture
def load() -> Iterator[Any]:
    """Load a folder into a backend of its own, which is unloaded at the end."""
    loaded: list[HuggingFaceBackend] = []

    def load_folder(path: Path | str, **parameters: Any) -> HuggingFaceBackend:
        loaded.append(HuggingFaceBackend())
        loaded[-1].load_model(str(path), parameters)
        return loaded[-1]

    yield load_folder
    for backend in loaded:
        backend.unload_model()


def chat(backend: HuggingFaceBackend, *texts: str, **parameters: Any) -> tuple[str, Chunk]:
    """Say something, the visitor first, then in turn; return the answer and the last chunk."""
    roles = ("user", "assistant") * len(texts)
    messages = [Message(role, text) for role, text in zip(roles, texts, strict=False)]  # type: ignore[arg-type]
    pieces = [Chunk(piece) if isinstance(piece, str) else piece for piece in backend.chat_stream(messages, parameters)]
    return "".join(piece.text for piece in pieces), pieces[-1]


def broken(tiny: Path, folder: Path, **files: bytes | None) -> Path:
    """Copy a folder with some files replaced, or taken out where None."""
    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name, content in files.items():
        file = folder / name.replace("__", ".")
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
    return folder


# Answers


def test_a_chat_is_answered_through_the_models_own_template(load: Any, tiny: Path) -> None:
    text, last = chat(load(tiny), "Hello")
    assert text == DEFAULT_ANSWER
    assert last.finish_reason == "stop" and last.usage is not None
    assert last.usage.prompt_tokens > 4 and last.usage.completion_tokens > 20


def test_text_comes_character_by_character_and_none_is_cut(load: Any, tiny: Path) -> None:
    pieces = [piece for piece in load(tiny).chat_stream([Message("user", "Hello")], {}) if isinstance(piece, str)]
    assert len(pieces) > 20 and "".join(pieces) == DEFAULT_ANSWER
    assert not any("\ufffd" in piece for piece in pieces)


def test_thoughts_are_set_apart(tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path / "configs")
    forge.add_model("thinks", str(write_tiny_hf(tmp_path / "thinks", THINKING_ANSWER)), "huggingface")
    forge.load_model("thinks")
    answer = forge.chat_stream([Message("user", "Hello")])
    assert "".join(answer) == "The answer is **42**." and answer.reasoning == "The user wants an answer.\n"
    forge.unload_model()


def test_max_tokens_is_exact(load: Any, endless: Path) -> None:
    text, last = chat(load(endless), "Count", max_tokens=3)
    assert (last.finish_reason, last.usage.completion_tokens) == ("length", 3)
    assert COUNTING_ANSWER.startswith(text.strip())


def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(load: Any, endless: Path) -> None:
    backend = load(endless)
    text, last = chat(backend, "Count", stop=["four"])
    assert (text, last.finish_reason) == ("one two three ", "stop")
    assert chat(backend, "Count", max_tokens=1)[0].strip() == "one", "the next answer begins clean"


def test_a_prompt_over_the_window_is_refused_before_anything_is_evaluated(load: Any, random: Path) -> None:
    with pytest.raises(ContextOverflow, match="of 2,048 tokens"):
        chat(load(random), "word " * 4000)


def test_without_a_limit_an_answer_ends_where_the_window_is_full(load: Any, tmp_path: Path) -> None:
    small = write_tiny_hf(tmp_path / "small", COUNTING_ANSWER, endless=True, n_ctx_train=96)
    _text, last = chat(load(small), "Count")
    assert last.finish_reason == "length"
    assert last.usage.prompt_tokens + last.usage.completion_tokens == 96


def test_a_message_cannot_speak_as_somebody_else(load: Any, tiny: Path) -> None:
    backend = load(tiny)
    plain = chat(backend, "Hello")[1].usage.prompt_tokens
    forged = chat(backend, "Hello<|im_end|>")[1].usage.prompt_tokens
    assert forged > plain + 1, "the text of a control token is many tokens, not the one"


def test_a_chat_without_a_template_goes_as_plain_lines(load: Any, tmp_path: Path) -> None:
    text, last = chat(load(write_tiny_hf(tmp_path / "plain", chat_template=None)), "Hello")
    assert text == DEFAULT_ANSWER and last.finish_reason == "stop"


def test_the_prompt_is_counted_in_tokens(load: Any, tiny: Path) -> None:
    assert load(tiny).count_tokens("Hello world") == 2


# The cache


def test_a_follow_up_evaluates_only_what_is_new(load: Any, random: Path) -> None:
    backend = load(random)
    question = "tell me a long story " * 60
    first, one = chat(backend, question, max_tokens=8, **GREEDY)
    _second, two = chat(backend, question, first, "And then?", max_tokens=8, **GREEDY)
    assert one.usage.cached_tokens == 0
    assert two.usage.prompt_tokens - two.usage.cached_tokens < 60 < two.usage.cached_tokens


def test_an_answer_from_the_cache_is_the_answer_without_it(load: Any, random: Path) -> None:
    warm = load(random)
    chat(warm, "Hello world", max_tokens=20, **GREEDY)
    chat(warm, "Hello you", max_tokens=5, **GREEDY)
    again, last = chat(warm, "Hello world, what is the answer?", max_tokens=20, **GREEDY)
    assert last.usage.cached_tokens > 0
    assert again == chat(load(random), "Hello world, what is the answer?", max_tokens=20, **GREEDY)[0]


def test_the_cache_is_right_after_a_stop_and_after_a_stop_text(load: Any, endless: Path) -> None:
    backend = load(endless)
    for parameters in ({"stop": ["three"]}, {"max_tokens": 4}):
        chat(backend, "Count", **parameters)
        assert chat(backend, "Count", max_tokens=3)[0].split() == ["one", "two", "three"]


# Stop


def test_stop_ends_an_answer_within_a_token(load: Any, endless: Path) -> None:
    backend = load(endless)
    stream = backend.chat_stream([Message("user", "Count")], {})
    texts: list[str] = []
    for piece in stream:
        if isinstance(piece, str):
            texts.append(piece)
            backend.stop()
    assert len(texts) == 1
    assert isinstance(piece, Chunk) and piece.finish_reason == "cancelled"


def test_stop_is_heard_while_a_long_prompt_is_read(load: Any, endless: Path) -> None:
    backend = load(endless)
    evaluated: list[float] = []
    for piece in backend.chat_stream([Message("user", "word " * 3000)], {}):
        if isinstance(piece, Chunk) and piece.progress:
            evaluated.append(piece.progress)
            backend.stop()
    assert len(evaluated) == 1 and evaluated[0] < 0.5
    assert piece.finish_reason == "cancelled"  # type: ignore[union-attr]
    assert chat(backend, "Count", max_tokens=1)[0].strip() == "one"


def test_leaving_an_answer_ends_its_thread(load: Any, endless: Path) -> None:
    backend = load(endless)
    stream = iter(backend.chat_stream([Message("user", "Count")], {}))
    while not isinstance(next(stream), str):
        pass
    assert "llamaforge-answer" in {thread.name for thread in threading.enumerate()}
    stream.close()
    until(lambda: "llamaforge-answer" not in {thread.name for thread in threading.enumerate()})
    assert chat(backend, "Count", max_tokens=1)[0].strip() == "one"


def test_what_the_generating_thread_raises_reaches_the_reader(load: Any, tiny: Path) -> None:
    backend = load(tiny)
    backend._model.lm_head = torch.nn.Linear(7, 7)  # a layer that does not fit: a real error in the middle
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        chat(backend, "Hello")


# Parameters


@pytest.mark.parametrize(
    ("parameters", "asked"),
    [
        ({"temperature": 0.0}, {"do_sample": False}),
        ({"temperature": 0.5}, {"do_sample": True, "temperature": 0.5}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"top_k": 7}, {"top_k": 7}),
        ({"min_p": 0.1}, {"min_p": 0.1}),
        ({"repeat_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ({"max_tokens": 9}, {"max_new_tokens": 9}),
    ],
    ids=str,
)
def test_every_parameter_reaches_generate(
    load: Any, tiny: Path, parameters: dict[str, Any], asked: dict[str, Any]
) -> None:
    backend = load(tiny)
    seen: list[dict[str, Any]] = []
    generate = backend._model.generate
    backend._model.generate = lambda **arguments: seen.append(arguments) or generate(**arguments)
    chat(backend, "Hello", **parameters)
    assert {name: seen[0].get(name) for name in asked} == asked


def test_what_generation_config_says_holds_unless_it_is_set(load: Any, folders: Path, tmp_path: Path) -> None:
    sampled = {"do_sample": True, "temperature": 1.7, "top_k": 3, "repetition_penalty": 1.1}
    folder = write_tiny_hf(tmp_path / "sampled", shuffled=True, generation=sampled)
    defaults = HuggingFaceBackend().describe(str(folder)).defaults
    assert defaults == {"temperature": 1.7, "top_p": 1.0, "top_k": 3, "min_p": 0.0, "repeat_penalty": 1.1}
    backend = load(folder)
    assert len({chat(backend, "Hello", seed=seed)[0] for seed in range(4)}) > 1, "it samples by itself"
    assert len({chat(backend, "Hello", seed=seed, temperature=0.0)[0] for seed in range(3)}) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("do_sample", False), ("top_k", 1), ("top_p", 0.0), ("min_p", 1.0)],
    ids=lambda value: str(value),
)
def test_each_recommendation_of_a_model_is_what_its_answers_are_made_with(
    load: Any, tmp_path: Path, key: str, value: Any
) -> None:
    warm = {"do_sample": True, "temperature": 2.0, key: value}
    backend = load(write_tiny_hf(tmp_path / "warm", shuffled=True, generation=warm))
    assert chat(backend, "Hello")[0] == chat(backend, "Hello", **GREEDY)[0]


@pytest.mark.parametrize(
    ("generation", "temperature", "top_k"),
    [
        ({}, (0.0, ENGINE), (50, ENGINE)),
        ({"do_sample": False, "temperature": 0.6}, (0.0, CONFIG), (50, ENGINE)),
        ({"temperature": 0.6, "top_k": 20}, (0.0, ENGINE), (20, CONFIG)),
        ({"do_sample": True}, (1.0, ENGINE), (50, ENGINE)),
        ({"do_sample": True, "temperature": 0.6, "top_k": 0}, (0.6, CONFIG), (0, CONFIG)),
        ({"do_sample": True, "top_k": "many", "temperature": None}, (1.0, ENGINE), (50, ENGINE)),
    ],
    ids=["nothing", "greedy", "not asked to sample", "asked to sample", "all", "nonsense"],
)
def test_an_unset_value_tells_whether_the_model_recommends_it(
    tmp_path: Path, generation: dict[str, Any], temperature: tuple[float, str], top_k: tuple[int, str]
) -> None:
    forge = LlamaForge(tmp_path / "configs")
    forge.add_model("a", str(write_tiny_hf(tmp_path / "model", generation=generation)), "huggingface")
    settings = forge.settings_of("a")
    assert settings["temperature"] == Setting(*temperature, is_set=False)
    assert settings["top_k"] == Setting(*top_k, is_set=False)


def test_a_seed_repeats_and_another_differs(load: Any, tmp_path: Path) -> None:
    backend = load(write_tiny_hf(tmp_path / "shuffled", shuffled=True))
    said = [chat(backend, "Hello", seed=seed, temperature=1.0, top_k=1000)[0] for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_an_answer_can_be_had_again_with_the_settings_that_it_tells(tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path / "configs")
    folder = write_tiny_hf(tmp_path / "hf", shuffled=True)
    forge.add_model("tiny", str(folder), "huggingface", {"device": "cpu", "temperature": 1.5, "max_tokens": 20})
    forge.load_model("tiny")
    first = forge.chat_stream([Message("user", "Hello")])
    assert first.wait(PATIENCE) and "seed" in first.settings
    again, other = (forge.chat([Message("user", "Hello")], settings) for settings in (first.settings, {}))
    assert again == first.text != other
    forge.unload_model()


def test_without_a_seed_no_two_answers_are_the_same(load: Any, tmp_path: Path) -> None:
    backend = load(write_tiny_hf(tmp_path / "shuffled", shuffled=True))
    assert len({chat(backend, "Hello", temperature=1.0, top_k=1000)[0] for _ in range(3)}) == 3


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"device": "gpu"}, "device must be a text such as auto, cpu, cuda, cuda:1, mps, found 'gpu'."),
        ({"torch_dtype": "half"}, "torch_dtype must be one of auto, bfloat16, float16, float32, found 'half'."),
        ({"quantization": "3bit"}, "quantization must be one of 4bit, 8bit, found '3bit'."),
        ({"trust_remote_code": "yes"}, "trust_remote_code must be true or false, found 'yes'."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_value_is_refused_with_what_it_may_be(parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ParameterError) as refused:
        validate(HuggingFaceParameters, parameters)
    assert str(refused.value) == sentence


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
def test_the_weights_have_the_type_that_is_asked_for(load: Any, tiny: Path, dtype: str) -> None:
    backend = load(tiny, torch_dtype=dtype, attn_implementation="eager", device="cpu")
    assert str(backend._model.dtype) == {"auto": "torch.float32"}.get(dtype, f"torch.{dtype}")
    assert backend._model.config._attn_implementation == "eager"
    assert chat(backend, "Hello")[0] == DEFAULT_ANSWER


def test_a_device_map_places_the_model(load: Any, tiny: Path) -> None:
    assert chat(load(tiny, device_map="auto"), "Hello")[0] == DEFAULT_ANSWER


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, so asking for it is no error")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_told_with_the_way_out(load: Any, tiny: Path, device: str) -> None:
    with pytest.raises(ModelError, match="torch finds no CUDA GPU here. Set device to auto or cpu."):
        load(tiny, device=device)


def test_quantization_without_its_package_says_what_to_install(load: Any, tiny: Path) -> None:
    with pytest.raises(BackendMissing, match="pip install bitsandbytes"):
        load(tiny, quantization="4bit")


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed here")
def test_flash_attention_without_its_package_says_what_else_to_set(load: Any, tiny: Path) -> None:
    with pytest.raises(BackendMissing, match="needs the package flash-attn.* Set it to sdpa"):
        load(tiny, attn_implementation="flash_attention_2")


def test_nothing_is_imported_until_a_model_is_loaded(tiny: Path) -> None:
    script = (
        "import sys\n"
        "from llamaforge.backends.huggingface import HuggingFaceBackend as B\n"
        "backend = B(); backend.check(sys.argv[1], {}); backend.describe(sys.argv[1])\n"
        "backend.memory_needed(sys.argv[1], {})\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])\n"
    )
    assert run_python(script, tiny).stdout == "[]\n"


# Files


def test_the_card_tells_what_the_folder_holds(tiny: Path) -> None:
    card = HuggingFaceBackend().describe(str(tiny))
    assert card.facts["Architecture"] == "LlamaForCausalLM" and card.facts["Trained context"] == "2,048 tokens"
    assert card.facts["Chat template"] == "its own" and card.facts["Parameters"].endswith("M")
    assert card.limits == {"max_tokens": 2048}


def test_the_memory_is_known_before_anything_is_loaded(tiny: Path) -> None:
    backend = HuggingFaceBackend()
    full, half = (backend.memory_needed(str(tiny), {"torch_dtype": kind}) for kind in ("float32", "bfloat16"))
    assert full.weights == 2 * half.weights and full.kv_cache == 2 * half.kv_cache > 0
    assert backend.memory_needed(str(tiny), {"quantization": "4bit"}).weights == pytest.approx(
        full.weights / 4, rel=0.1
    )


def test_weights_that_can_run_code_are_refused_and_not_opened(tiny: Path, tmp_path: Path) -> None:
    pickle = b"cposix\nsystem\n(S'touch " + str(tmp_path / "canary").encode() + b"'\ntR."
    folder = broken(tiny, tmp_path / "old", model__safetensors=None, pytorch_model__bin=pickle)
    with pytest.raises(ModelFileError, match="old .bin format, which can run code"):
        HuggingFaceBackend().load_model(str(folder))
    assert not (tmp_path / "canary").exists()


def test_a_model_that_wants_to_run_its_own_code_is_refused(tiny: Path, tmp_path: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    config |= {"model_type": "custom", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    code = f"open({str(tmp_path / 'canary')!r}, 'w')\nclass C: ...\nclass M: ...\n".encode()
    folder = broken(tiny, tmp_path / "own", config__json=json.dumps(config).encode(), code__py=code)
    with pytest.raises(ModelError, match="wants to run its own Python code.*--allow-remote-code"):
        HuggingFaceBackend().load_model(str(folder))
    assert not (tmp_path / "canary").exists()


TRUNCATED = struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}     ' + bytes(8)
INDEX = b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"config__json": None}, "holds no config.json"),
        ({"config__json": b"{"}, "config.json of broken cannot be read"),
        ({"config__json": b"[1]"}, "config.json of broken is damaged"),
        ({"config__json": b'{"model_type": "mystery"}'}, "of a type that this transformers does not know"),
        ({"config__json": b'{"model_type": "vit"}'}, "not a chat model"),
        ({"model__safetensors": None}, "holds no .safetensors files"),
        ({"model__safetensors": b""}, "model.safetensors is damaged"),
        ({"model__safetensors": b"\xff" * 64}, "model.safetensors is damaged"),
        ({"model__safetensors": struct.pack("<Q", 4) + b"nope"}, "model.safetensors is damaged"),
        ({"model__safetensors": TRUNCATED}, "model.safetensors is incomplete"),
        ({"model__safetensors": b"version https://git-lfs.github.com/spec/v1\n"}, "Git LFS placeholder"),
        ({"model__safetensors__index__json": INDEX}, "model-00001-of-00002.safetensors is missing"),
        ({"tokenizer__json": None}, "transformers cannot load broken"),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_folder_that_is_no_model_says_why(tiny: Path, tmp_path: Path, files: Any, sentence: str) -> None:
    folder = broken(tiny, tmp_path / "broken", **files)
    with pytest.raises(ModelFileError, match=sentence):
        HuggingFaceBackend().load_model(str(folder))


@pytest.mark.parametrize(
    ("name", "sentence"), [("gone", "Folder not found: gone"), ("x.gguf", "choose the backend llama.cpp")]
)
def test_a_path_that_is_no_folder_says_what_to_choose(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match=sentence):
        HuggingFaceBackend().check(str(tmp_path / name), {})


# The Hub


@pytest.fixture
def repository(hub_server: Hub, tiny: Path) -> Hub:
    """The Hub has the tiny model, with more files than are of use."""
    files = {file.name: file.read_bytes() for file in tiny.iterdir()}
    hub_server.files["forge/tiny"] = files | {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"1", "run.py": b"2"}
    return hub_server


def test_a_repository_of_the_hub_is_fetched_and_loaded(load: Any, repository: Hub) -> None:
    backend = HuggingFaceBackend()
    assert backend.describe("forge/tiny").facts["Here"].startswith("not yet")
    assert backend.memory_needed("forge/tiny", {}) is None
    assert chat(load("forge/tiny"), "Hello")[0] == DEFAULT_ANSWER
    assert backend.describe("forge/tiny").facts["Name"] == "forge/tiny"
    fetched = {file.name for file in hub.snapshot("forge/tiny").rglob("*")}  # type: ignore[union-attr]
    assert "model.safetensors" in fetched and not fetched & {"pytorch_model.bin", "model.onnx", "run.py"}


def test_what_is_here_is_loaded_without_the_hub(load: Any, repository: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    load("forge/tiny")
    repository.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert chat(load("forge/tiny"), "Hello")[0] == DEFAULT_ANSWER
    assert repository.requests == []


def test_a_repository_with_pickles_only_is_not_fetched(repository: Hub) -> None:
    del repository.files["forge/tiny"]["model.safetensors"]
    with pytest.raises(ModelFileError, match="forge/tiny has no .safetensors files"):
        HuggingFaceBackend().load_model("forge/tiny")
    assert not [path for _method, path, _headers in repository.requests if path.endswith(".bin")]


def test_revision_and_folder_are_the_ones_that_are_asked_for(load: Any, repository: Hub, tmp_path: Path) -> None:
    repository.revisions = ("main", "v2")
    load("forge/tiny", revision="v2", cache_dir=str(tmp_path / "here"))
    assert hub.snapshot("forge/tiny", "v2", tmp_path / "here") is not None
    assert hub.snapshot("forge/tiny", "main", tmp_path / "here") is None


def test_a_download_can_be_given_up(repository: Hub) -> None:
    repository.go_on.clear()
    backend = HuggingFaceBackend()
    loader = threading.Thread(target=lambda: repository.sending.wait() and backend.stop())
    loader.start()
    with pytest.raises(ModelError, match="Loading was given up."):
        backend.load_model("forge/tiny")
    loader.join()
    repository.go_on.set()


# The house


def test_in_a_worker_it_answers_and_gives_all_memory_back(tiny: Path, tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path / "configs", isolate=True)
    forge.add_model("tiny", str(tiny), "huggingface", {"device": "cpu"})
    forge.load_model("tiny")
    assert result_of(forge.chat_stream([Message("user", "Hello")]), 60).text == DEFAULT_ANSWER
    assert "on CPU" in forge.status.summary
    forge.unload_model()
    assert forge.status.summary[0].endswith("given back")


def test_unloading_lets_go_of_the_model(load: Any, tiny: Path) -> None:
    backend = load(tiny)
    backend.unload_model()
    assert not backend.is_model_loaded()
    with pytest.raises(ModelError, match="Call load_model first"):
        backend.count_tokens("hi")
