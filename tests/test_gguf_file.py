from __future__ import annotations

import os
import random
import struct
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import pytest
from tiny_gguf import (
    CHATML,
    COUNTING_ANSWER,
    DEFAULT_ANSWER,
    LONG_TOKEN,
    THINKING_ANSWER,
    answer_pieces,
    array_setting,
    damaged_variants,
    handmade,
    number_setting,
    tensor_info,
    text,
    text_setting,
    write_tiny_gguf,
)

from llamaforge import gguf_file
from llamaforge.backends.llama_cpp_native import without_amx
from llamaforge.errors import ModelFileError
from llamaforge.gguf_file import GGUFHeader, read_header, require_chat_model

UNREADABLE = {
    "empty": "is empty",
    "text": "is a text file",
    "text_in_utf8": "is a text file",
    "json": "is a text file",
    "html": "is a web page",
    "lfs_pointer": "is a 134-byte Git LFS placeholder, not the model. Download the real file: git lfs pull.",
    "zip": "is a zip archive",
    "pytorch_zip": "is a PyTorch file",
    "pickle": "is a PyTorch file",
    "safetensors": "is a safetensors file",
    "gzip": "is a packed archive",
    "old_ggml": "is an old GGML file",
    "old_ggjt": "is an old GGML file",
    "zeros": "begins with zeros",
    "noise": "is no GGUF file",
    "wrong_magic": "is no GGUF file",
    "magic_only": "header ends too early",
    "no_counts": "header ends too early",
    "truncated_header": "header ends too early",
    "truncated_data": "is incomplete: ",
    "version_0": "version 0, which is too old",
    "version_1": "version 1, which is too old",
    "version_4": "version 4, which is too new",
    "version_99": "version 99, which is too new. Update llama-cpp-python.",
    "big_endian": "big-endian",
    "tensor_count_2_63": "9,223,372,036,854,775,808 tensors",
    "setting_count_2_63": "9,223,372,036,854,775,808 settings",
    "too_many_settings": "is damaged",
    "text_length_2_63": "name of a setting is too long",
    "alignment_0": "its alignment",
    "alignment_3": "its alignment",
    "alignment_text": "its alignment",
    "twice_the_same_setting": "a setting occurs twice",
    "unknown_value_type": "the unknown type 77",
    "array_of_arrays": "the unknown type 9",
    "array_of_2_63_texts": "too many texts",
    "array_of_2_63_numbers": "header ends too early",
    "array_of_long_texts": "header ends too early",
    "tensor_far_away": "beyond the end of any file",
    "tensor_beyond_the_end": "is incomplete: 0.3 KB of 4.2 KB. Download it again.",
    "tensor_not_aligned": "impossible shape or place",
    "tensor_of_nothing": "impossible shape or place",
    "tensor_too_large": "impossible shape or place",
    "tensor_half_a_block": "impossible shape or place",
    "tensor_of_five_dimensions": "5 dimensions",
}
NO_CHAT_MODEL = {
    "mmproj": "(image projector). Choose the .gguf file of the model that it belongs to.",
    "clip": "(image projector)",
    "lora_adapter": "(adapter)",
    "bert": "(embedding model)",
    "pooled_embedding": "(embedding model)",
    "vocabulary_only": "(vocabulary only)",
    "no_architecture": "does not say what type of model it is",
    "later_part": "Download all 2 parts",
}
REFUSED_BY_THE_ENGINE = ["unknown_architecture", "zero_heads"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("good") / "good.gguf", width=64, layers=1)


@pytest.fixture(scope="module")
def variants(good: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return damaged_variants(good, tmp_path_factory.mktemp("damaged"))


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    usual = llama_cpp.llama_cpp.llama_model_default_params
    monkeypatch.setattr(llama_cpp.llama_cpp, "llama_model_default_params", lambda: without_amx(usual()))
    engines: list[llama_cpp.Llama] = []

    def write_and_load(answer: str | bytes = DEFAULT_ANSWER, **options: Any) -> llama_cpp.Llama:
        path = write_tiny_gguf(tmp_path / "model.gguf", answer, **options)
        engines.append(llama_cpp.Llama(str(path), n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False))
        return engines[-1]

    yield write_and_load
    for engine in engines:
        engine.close()


def ask(engine: llama_cpp.Llama, question: str = "hi", **parameters: Any) -> str:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
    answer: Any = engine.create_chat_completion(messages, **{"temperature": 0, "max_tokens": 100} | parameters)
    return str(answer["choices"][0]["message"]["content"])


def header_of(**metadata: Any) -> GGUFHeader:
    """Return a header of the settings given, with "__" for the dot and "llama__" for the architecture's own."""
    settings = {"general.architecture": "llama"} | {key.replace("__", "."): value for key, value in metadata.items()}
    return GGUFHeader(Path("model.gguf"), 1000, 3, settings, {}, 1, 32, {"Q4_K": 64, "F32": 32})


def refusal(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        require_chat_model(read_header(path))
    return str(caught.value)


def test_the_header_tells_what_the_model_is(good: Path) -> None:
    header = read_header(good)
    require_chat_model(header)
    facts = (header.architecture, header.name, header.kind, header.quantization, header.version)
    assert facts == ("llama", "Tiny test model", "chat model", "F32", 3)
    sizes = (header.n_layers, header.n_ctx_train, header.n_embd, header.n_head)
    assert sizes == (1, 2048, 64, 1)
    assert (header.path, header.file_size) == (good, good.stat().st_size)
    assert header.chat_template == CHATML


def test_the_header_agrees_with_the_gguf_package(good: Path) -> None:
    header, reader = read_header(good), gguf.GGUFReader(good)
    assert header.tensor_count == len(reader.tensors)
    assert header.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert header.tensor_types == {"F32": header.parameters}
    assert header.n_vocab == len(reader.fields["tokenizer.ggml.tokens"].data)
    for key, value in header.metadata.items():
        expected = reader.fields[key].contents()
        assert value == (tuple(expected) if isinstance(value, tuple) else expected)


def test_the_sizes_of_tensor_types_are_those_of_the_gguf_package() -> None:
    known = {int(t): (t.name, *sizes) for t, sizes in gguf.GGML_QUANT_SIZES.items()}
    del known[gguf.GGMLQuantizationType.Q8_1]  # never in files; the package and the engine differ on its size
    shared = {number: row for number, row in gguf_file._TENSOR_TYPES.items() if number in known}
    assert shared == known


def test_the_names_of_file_types_are_those_of_the_gguf_package() -> None:
    for file_type in set(gguf.LlamaFileType) - {gguf.LlamaFileType.GUESSED}:
        name = file_type.name.removeprefix("ALL_").removeprefix("MOSTLY_")
        assert header_of(general__file_type=int(file_type)).quantization == name
        assert header_of(general__file_type=file_type | gguf.LlamaFileType.GUESSED).quantization == name


@pytest.mark.parametrize("file_type", [{}, {"general__file_type": 5}, {"general__file_type": 999}])
def test_without_a_known_file_type_the_most_used_tensor_type_counts(file_type: dict[str, int]) -> None:
    assert header_of(**file_type).quantization == "Q4_K"


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_damaged_file_is_refused_in_a_sentence(variants: dict[str, Path], name: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        read_header(variants[name])
    message = str(caught.value)
    assert UNREADABLE[name] in message
    assert message.startswith(f"{name}.gguf ") and message.endswith(".")
    assert str(variants[name].parent) not in message and "\n" not in message


@pytest.mark.parametrize("name", NO_CHAT_MODEL)
def test_a_file_that_is_no_chat_model_is_named(variants: dict[str, Path], name: str) -> None:
    message = refusal(variants[name])
    assert NO_CHAT_MODEL[name] in message
    assert str(variants[name].parent) not in message


@pytest.mark.parametrize("name", REFUSED_BY_THE_ENGINE)
def test_what_only_the_engine_can_judge_is_left_to_it(variants: dict[str, Path], name: str) -> None:
    require_chat_model(read_header(variants[name]))
    with pytest.raises(ValueError, match="Failed to load model"):
        llama_cpp.Llama(str(variants[name]), n_ctx=256, n_threads=1, verbose=False)


def test_every_damaged_variant_is_expected(variants: dict[str, Path]) -> None:
    assert set(variants) == {*UNREADABLE, *NO_CHAT_MODEL, *REFUSED_BY_THE_ENGINE}


def test_version_2_is_read(good: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.gguf"
    old.write_bytes(b"GGUF\x02" + good.read_bytes()[5:])
    assert read_header(old).version == 2


def test_a_missing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone.gguf") == "File not found: gone.gguf. Check the path."


def test_a_folder_names_up_to_three_files_inside(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path.name} is a folder. Choose a .gguf file inside: it has none."
    for name in ("d.gguf", "c.gguf", "b.GGUF", "a.txt", "a.gguf"):
        (tmp_path / name).touch()
    assert refusal(tmp_path).endswith("Choose a .gguf file inside: a.gguf, b.GGUF, c.gguf.")


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    assert refusal(tmp_path / "pipe.gguf") == "pipe.gguf is a device or a pipe. Choose a .gguf file."


def test_a_link_to_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zero.gguf").symlink_to("/dev/zero")
    assert "is a device" in refusal(tmp_path / "zero.gguf")


def test_a_file_that_may_not_be_read_says_so(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert refusal(good) == "Cannot read good.gguf: Permission denied. Check its permissions."


@pytest.mark.parametrize("name", ["a\0b.gguf", "x" * 300, "loop.gguf", "good.gguf/inside"], ids=lambda name: name[:4])
def test_an_impossible_path_is_refused(good: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    (tmp_path / "good.gguf").symlink_to(good)
    message = refusal(tmp_path / name)
    assert message.startswith("Cannot read ") and "\0" not in message


def test_odd_characters_of_a_name_are_not_shown(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a\nb\x1b[1m\udcff.gguf") == "File not found: a?b?[1m?.gguf. Check the path."


def test_an_incomplete_file_says_how_much_of_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    path.write_bytes(handmade([text_setting("general.architecture", "llama")], [tensor_info("a", [1_025_000_000])]))
    os.truncate(path, 1_200_000_000)
    assert refusal(path) == "big.gguf is incomplete: 1.2 GB of 4.1 GB. Download it again."
    os.truncate(path, 4_099_999_999)
    assert refusal(path) == "big.gguf is incomplete: 4,099,999,999 of 4,100,000,128 bytes. Download it again."


def test_a_tensor_of_unknown_type_is_counted_and_its_offset_checked(tmp_path: Path) -> None:
    path = tmp_path / "new.gguf"
    path.write_bytes(handmade([], [tensor_info("a", [7], kind=500)], data=bytes(8)))
    assert read_header(path).tensor_types == {"unknown": 7}
    path.write_bytes(handmade([], [tensor_info("a", [7], kind=500, offset=32)]))
    assert "is incomplete" in refusal(path)


def test_long_values_are_left_out_but_lengths_are_kept(tmp_path: Path) -> None:
    path, numbers = tmp_path / "long.gguf", gguf.GGUFValueType.UINT16
    long = array_setting("long", numbers, 4097, bytes(2 * 4097))
    short = array_setting("short", numbers, 3, struct.pack("<3H", 1, 2, 3))
    texts = array_setting("texts", gguf.GGUFValueType.STRING, 2, text("a") + text("b"))
    novel = text_setting("novel", "x" * (1024**2 + 1))
    path.write_bytes(handmade([long, short, texts, novel, number_setting("last", 7)]))
    header = read_header(path)
    assert header.metadata == {"short": (1, 2, 3), "last": 7}
    assert header.array_lengths == {"long": 4097, "short": 3, "texts": 2}


def test_many_long_texts_do_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "texts.gguf"
    path.write_bytes(handmade([text_setting(f"t{n}", "🦙" + "x" * 300_000) for n in range(60)]))
    tracemalloc.start()
    read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000_000


def test_a_vocabulary_of_128k_entries_is_read_fast(tmp_path: Path) -> None:
    path, texts = tmp_path / "vocabulary.gguf", gguf.GGUFValueType.STRING
    tokens = array_setting("tokenizer.ggml.tokens", texts, 131_072, text("a token") * 131_072)
    merges = array_setting("tokenizer.ggml.merges", texts, 280_000, text("ab cd") * 280_000)
    path.write_bytes(handmade([tokens, merges, number_setting("last", 7)]))
    started = time.process_time()
    header = read_header(path)
    assert time.process_time() - started < 3  # 0.2 as a rule
    assert (header.n_vocab, header.metadata["last"]) == (131_072, 7)


def test_a_large_vocabulary_takes_little_memory(tmp_path: Path) -> None:
    path, texts = tmp_path / "vocabulary.gguf", gguf.GGUFValueType.STRING
    path.write_bytes(handmade([array_setting("tokenizer.ggml.tokens", texts, 60_000, text("a token") * 60_000)]))
    tracemalloc.start()
    read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_any_damage_of_a_header_is_survived(good: Path, tmp_path: Path) -> None:
    data, numbers = bytearray(good.read_bytes()), random.Random(7)
    end = len(data) - 4 * read_header(good).parameters
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(data)
    for _ in range(1000):
        place, size = numbers.choice([numbers.randrange(300), numbers.randrange(end)]), numbers.choice([1, 1, 4, 8])
        with damaged.open("r+b") as file:
            file.seek(place)
            file.write(numbers.choice([numbers.randbytes(size), bytes(size), b"\xff" * size]))
        survive(damaged)
        with damaged.open("r+b") as file:
            file.seek(place)
            file.write(data[place : place + size])


def survive(path: Path) -> None:
    try:
        header = read_header(path)
        header.kv_cache_bytes(4096)
        assert isinstance(header.quantization + header.kind, str) and isinstance(header.sampling_defaults, dict)
        require_chat_model(header)
    except ModelFileError as exc:
        assert str(path.parent) not in str(exc)


def test_settings_of_the_wrong_type_are_as_good_as_missing() -> None:
    header = header_of(general__architecture=7, general__name=(1, 2), general__type=3, general__file_type="Q4")
    assert (header.architecture, header.name, header.quantization, header.n_layers) == ("", None, "Q4_K", 0)
    odd = header_of(llama__block_count="many", llama__attention__head_count=-3, llama__embedding_length=1.5)
    assert (odd.n_layers, odd.n_head, odd.n_embd, odd.kv_cache_bytes(4096)) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"head_count": 32}, 32 * 32 * 256),
        ({"head_count": 32, "head_count_kv": 8}, 32 * 8 * 256),
        ({"head_count": 32, "head_count_kv": 8, "key_length": 64, "value_length": 32}, 32 * 8 * 96),
        ({"head_count": 32, "head_count_kv": (0, 8, 0, 4)}, 12 * 256),
        ({"head_count": 0}, 0),
        ({}, 0),
        ({"head_count": 32, "shared_kv_layers": 12}, 20 * 32 * 256),
    ],
    ids=["all heads", "grouped", "own lengths", "by layer", "no attention", "unknown", "shared layers"],
)
def test_the_kv_cache_follows_from_heads_and_layers(settings: dict[str, Any], expected: int) -> None:
    attention = {f"llama__attention__{key}": value for key, value in settings.items()}
    header = header_of(llama__block_count=32, llama__embedding_length=4096, **attention)
    assert header.kv_cache_bytes(1000) == 1000 * expected * 2
    assert header.kv_cache_bytes(1000, 0.5625, 0.5625) == 1000 * expected * 0.5625


def test_recurrent_layers_take_the_same_for_any_context() -> None:
    ssm = {"llama__ssm__inner_size": 4096, "llama__ssm__state_size": 16, "llama__ssm__conv_kernel": 4}
    header = header_of(llama__block_count=10, llama__attention__head_count=0, **ssm)
    assert header.kv_cache_bytes(100) == header.kv_cache_bytes(100_000) == 10 * 4096 * 20 * 4


def test_attention_in_every_fourth_layer_takes_a_quarter() -> None:
    sizes = {"llama__block_count": 32, "llama__embedding_length": 4096, "llama__attention__head_count": 32}
    mixed = header_of(llama__full_attention_interval=4, **sizes)
    assert mixed.kv_cache_bytes(1000) * 4 == header_of(**sizes).kv_cache_bytes(1000)


def test_recommended_sampling_has_our_names(tmp_path: Path) -> None:
    keys = gguf.Keys.General
    recommended = {keys.SAMPLING_TEMP: 0.6, keys.SAMPLING_TOP_K: 20, keys.SAMPLING_TOP_P: 0.95}
    others = {keys.SAMPLING_MIN_P: 0.1, keys.SAMPLING_PENALTY_REPEAT: float("nan"), keys.SAMPLING_MIROSTAT: 2}
    path = write_tiny_gguf(tmp_path / "model.gguf", width=64, layers=1, metadata=recommended | others)
    assert read_header(path).sampling_defaults == {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1}
    assert header_of(general__sampling__penalty_repeat=1.1).sampling_defaults == {"repeat_penalty": 1.1}


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"general__architecture": "flux"}, "image generator"),
        ({"general__type": "imatrix"}, "importance matrix"),
        ({"llama__pooling_type": 4}, "embedding model"),
        ({"llama__pooling_type": 0}, "chat model"),
        ({"llama__pooling_type": 2**32 - 1}, "chat model"),
        ({"adapter__type": "lora"}, "adapter"),
        ({"split__no": 1}, "part of a split model"),
    ],
    ids=["image generator", "imatrix", "reranker", "no pooling", "unset pooling", "adapter", "part"],
)
def test_the_kind_is_told_from_the_settings(settings: dict[str, Any], kind: str) -> None:
    assert header_of(**settings).kind == kind


def write_parts(folder: Path, count: int = 3) -> list[Path]:
    paths = [folder / f"big-{n:05d}-of-{count:05d}.gguf" for n in range(1, count + 1)]
    for number, path in enumerate(paths):
        split = [number_setting("split.no", number), number_setting("split.count", count)]
        settings = split if number else [text_setting("general.architecture", "llama"), *split]
        path.write_bytes(handmade(settings, [tensor_info("a", [64])], data=bytes(256)))
    return paths


def test_a_split_model_is_counted_as_a_whole(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    header = read_header(parts[0])
    require_chat_model(header)
    assert header.file_size == sum(part.stat().st_size for part in parts)
    assert (header.tensor_count, header.parameters, header.tensor_types) == (3, 192, {"F32": 192})


def test_a_later_part_names_the_first(tmp_path: Path) -> None:
    message = refusal(write_parts(tmp_path)[1])
    assert message.startswith("big-00002-of-00003.gguf is one of 3 parts of a model.")
    assert message.endswith("Choose the first: big-00001-of-00003.gguf.")


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    parts[2].unlink()
    assert refusal(parts[0]).startswith("big-00003-of-00003.gguf is missing. Download all 3 parts")
    assert refusal(parts[1]).startswith("big-00003-of-00003.gguf is missing.")


def test_a_renamed_part_is_refused_as_llama_cpp_would(tmp_path: Path) -> None:
    renamed = write_parts(tmp_path)[0].rename(tmp_path / "best.gguf")
    assert refusal(renamed) == "best-00001-of-00003.gguf is missing. Download all 3 parts, under their own names."


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    os.truncate(parts[2], 150)
    assert refusal(parts[0]).startswith("big-00003-of-00003.gguf is incomplete")


@pytest.mark.parametrize("question", ["hi", "Hello", "", "日本 🦙", "```\n\n", LONG_TOKEN, DEFAULT_ANSWER])
def test_the_tiny_model_says_its_answer_to_any_question(load: Any, question: str) -> None:
    assert ask(load(), question) == DEFAULT_ANSWER


@pytest.mark.parametrize(
    "answer",
    [
        THINKING_ANSWER,
        "",
        "Yes",
        "Hello",
        "no no no no",
        "| a | b |\n|---|---|\n| a | b |",
        "🦙🔥🦙 日本日本",
        "https://example.com/a-long-address?that=goes&on=and#on",
    ],
    ids=["thinking", "nothing", "word", "known word", "repeated", "table", "characters", "long word"],
)
def test_the_tiny_model_says_any_answer(load: Any, answer: str) -> None:
    assert ask(load(answer)) == answer


def test_the_tiny_model_says_its_answer_without_a_template(load: Any) -> None:
    answer = load(chat_template=None).create_completion("Hello", temperature=2.0, max_tokens=100)
    assert answer["choices"][0]["text"] == DEFAULT_ANSWER


@pytest.mark.parametrize("file_type", ["MOSTLY_F16", "MOSTLY_Q8_0", "MOSTLY_Q4_0"])
def test_the_tiny_model_survives_quantization(load: Any, file_type: str) -> None:
    engine = load(file_type=gguf.LlamaFileType[file_type])
    assert ask(engine) == DEFAULT_ANSWER
    assert read_header(Path(engine.model_path)).quantization == file_type.removeprefix("MOSTLY_")


def test_an_endless_model_goes_on_until_it_is_stopped(load: Any) -> None:
    assert ask(load(COUNTING_ANSWER, endless=True), max_tokens=25) == COUNTING_ANSWER * 2 + "one two three four five "


def test_a_shuffled_model_follows_its_seed(load: Any) -> None:
    engine = load(COUNTING_ANSWER, shuffled=True, endless=True)
    said = [ask(engine, temperature=1.0, seed=seed, max_tokens=20) for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]
    assert ask(engine, max_tokens=10) == COUNTING_ANSWER


def test_characters_come_in_several_tokens() -> None:
    pieces = answer_pieces("🦙 日本語")
    assert pieces == [b"\xf0\x9f", b"\xa6\x99", b" \xe6\x97", b"\xa5\xe6", b"\x9c\xac", b"\xe8\xaa\x9e"]


def test_the_tiny_model_can_say_invalid_utf8(load: Any) -> None:
    assert b"".join(answer_pieces(b"ok \xff\xfe bad")) == b"ok \xff\xfe bad"
    assert ask(load(b"ok \xff\xfe bad")).startswith("ok ")


@pytest.mark.parametrize(
    "text", ["Hello world, how are you?", "Ünïcode 日本 🦙\t\n  x", "def f(x):\n    return 12345\n"]
)
def test_any_text_is_tokenized_and_back(load: Any, text: str) -> None:
    engine = load()
    assert engine.detokenize(engine.tokenize(text.encode(), add_bos=False)).decode() == text


def test_known_words_and_the_long_token_are_one_token(load: Any) -> None:
    engine = load()
    assert len(engine.tokenize(b"Hello world", add_bos=False)) == 2
    assert len(engine.tokenize(LONG_TOKEN.encode(), add_bos=False)) == 1
    assert len(engine.tokenize(b"<|im_start|>user<|im_end|>", add_bos=False, special=True)) == 3


@pytest.mark.parametrize("answer", ["4", "\n", "<|im_end|>"])
def test_an_answer_that_a_prompt_may_hold_is_refused(tmp_path: Path, answer: str) -> None:
    with pytest.raises(ValueError, match="make it longer"):
        write_tiny_gguf(tmp_path / "model.gguf", answer)


def test_an_answer_of_too_many_pieces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="width must be larger"):
        write_tiny_gguf(tmp_path / "model.gguf", width=16)


def test_the_same_arguments_give_the_same_file(good: Path, tmp_path: Path) -> None:
    again = write_tiny_gguf(tmp_path / "again.gguf", width=64, layers=1)
    assert again.read_bytes() == good.read_bytes()
