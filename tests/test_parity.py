"""The same weights say the same through every engine: greedy, in 32 bits, token by token.

And where two models do not, the report says why: pairs that differ in one thing only get the verdict for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from openai_kit import llama_cpp_server
from tiny_gguf import CHATML, write_tiny_gguf
from tiny_hf import as_hf_folder, write_random_pair

from llamaforge import LlamaForge, Message, Token, parity
from llamaforge.parity import Report, Side

SAME = {"temperature": 0.0, "repeat_penalty": 1.0, "max_tokens": 40}
CHATS = {
    "a question": ["What is the answer?"],
    "three turns": ["Hello", "I am a model.", "tell me a short story about the world"],
    "Japanese and an emoji": ["日本語で答えてください 🦙"],
    "Greek and Arabic": ["Καλημέρα κόσμε, مرحبا بالعالم"],
    "code": ["def f(x):\n\treturn x ** 2  # 1234567890"],
    "a long one": ["count the words of the text please " * 20],
}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LlamaForge]]:
    """The same random weights in llama.cpp, in transformers, and at a server that this project did not write."""
    folder = tmp_path_factory.mktemp("pair")
    gguf, hf = write_random_pair(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    engines = {name: LlamaForge(folder / name) for name in ("llama.cpp", "huggingface", "openai")}
    exact = {"f16_kv": False, "flash_attn": False, "n_threads": 1}
    engines["llama.cpp"].add_model("pair", str(gguf), "llama.cpp", exact)
    engines["huggingface"].add_model("pair", str(hf), "huggingface", {"torch_dtype": "float32", "device": "cpu"})
    with llama_cpp_server(gguf, "--type_k", "0", "--type_v", "0", "--flash_attn", "False") as url:
        engines["openai"].add_model("pair", "tiny", "openai", {"api_base": url})
        for forge in engines.values():
            forge.load_model("pair")
        yield engines
        for forge in engines.values():
            forge.unload_model()
    torch.set_num_threads(threads)


def chat_of(texts: list[str]) -> list[Message]:
    return [Message("assistant" if number % 2 else "user", text) for number, text in enumerate(texts)]


@pytest.mark.parametrize("name", CHATS)
def test_llama_cpp_transformers_and_a_server_say_the_same(engines: dict[str, LlamaForge], name: str) -> None:
    answers = {engine: forge.chat_stream(chat_of(CHATS[name]), SAME) for engine, forge in engines.items()}
    said = {engine: "".join(answer) for engine, answer in answers.items()}
    results = [answers[engine].result for engine in ("llama.cpp", "huggingface")]  # the server counts no tokens
    assert len({result.usage.prompt_tokens for result in results if result and result.usage}) == 1
    assert said["llama.cpp"] == said["huggingface"] == said["openai"]
    assert len(said["llama.cpp"]) > 40


def test_the_answers_differ_from_prompt_to_prompt(engines: dict[str, LlamaForge]) -> None:
    said = {engines["llama.cpp"].chat(chat_of(texts), SAME) for texts in CHATS.values()}
    assert len(said) == len(CHATS)


PROMPT = "What is the answer?"
EXACT = {"f16_kv": False, "flash_attn": False, "n_threads": 1}


def write_random(path: Path, **options: Any) -> Path:
    return write_tiny_gguf(path, "never said", width=128, random_weights=7, **options)


def without_merge(path: Path, token: str) -> list[str]:
    """Return the merges of a model but the one that makes a token."""
    merges = gguf.GGUFReader(path).fields["tokenizer.ggml.merges"].contents()
    kept = [merge for merge in merges if merge.replace(" ", "") != token]
    assert len(kept) == len(merges) - 1
    return kept


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config folder of models that differ from `plain` in one thing each."""
    folder = tmp_path_factory.mktemp("parity")
    plain = write_random(folder / "plain.gguf")
    other_tokens = {"tokenizer.ggml.merges": without_merge(plain, "Ġanswer")}
    files = {
        "plain": plain,
        "shouted": write_random(
            folder / "shouted.gguf", chat_template=CHATML.replace("['content']", "['content'] | upper")
        ),
        "unmerged": write_random(folder / "unmerged.gguf", metadata=other_tokens),
        "begun": write_random(folder / "begun.gguf", metadata={"tokenizer.ggml.add_bos_token": True}),
        "q8": write_random(folder / "q8.gguf", file_type=gguf.LlamaFileType.MOSTLY_Q8_0),
    }
    forge = LlamaForge(folder)
    for name, file in files.items():
        forge.add_model(name, str(file), "llama.cpp", EXACT)
    folder_of_plain = as_hf_folder(plain, folder / "plain")
    forge.add_model("hf", str(folder_of_plain), "huggingface", {"device": "cpu"})
    forge.config.save()
    return folder


def compared(folder: Path, left: str, right: str, **options: Any) -> Report:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return parity.compare(LlamaForge(folder), left, right, PROMPT, **options)
    finally:
        torch.set_num_threads(threads)


def test_the_same_weights_in_two_engines_are_the_same(folder: Path) -> None:
    report = compared(folder, "plain", "hf")
    assert (report.verdict, report.difference) == ("same", None), parity.lines_of(report)
    assert report.left.prompt == report.right.prompt and len(report.left.answer_tokens or ()) == parity.TOKENS
    assert report.because == "The same prompt, and the same 64 tokens in answer to it."


@pytest.mark.parametrize(
    ("other", "verdict", "of"),
    [
        ("shouted", "template", "prompt"),
        ("unmerged", "tokenizer", "prompt tokens"),
        ("begun", "tokenizer", "prompt"),
        ("q8", "numerics", "answer tokens"),
    ],
)
@pytest.mark.parametrize("first", ["plain", "hf"])
def test_a_pair_that_differs_in_one_thing_gets_the_verdict_for_it(
    folder: Path, first: str, other: str, verdict: str, of: str
) -> None:
    report = compared(folder, first, other)
    assert report.verdict == verdict and report.difference is not None, parity.lines_of(report)
    assert report.difference.of == of and report.difference.left != report.difference.right


def test_the_first_token_that_differs_is_named_with_those_around_it(folder: Path) -> None:
    difference = compared(folder, "plain", "unmerged").difference
    assert difference is not None
    assert difference.left.startswith("'What' 'Ġis' 'Ġthe' → 'Ġanswer' (")
    assert difference.right.startswith("'What' 'Ġis' 'Ġthe' → 'Ġan")


def test_a_token_that_one_puts_before_every_prompt_is_named(folder: Path) -> None:
    because = compared(folder, "plain", "begun", tokens=1).because
    assert because == (
        "The prompts are the same but for '<|endoftext|>', which one tokenizer puts before every prompt."
    )


def test_what_is_known_of_the_precision_is_told(folder: Path) -> None:
    because = compared(folder, "plain", "q8", tokens=64).because
    assert "plain has F32" in because and "q8 has Q8_0" in because


def test_exact_takes_what_the_files_say_of_precision_away(folder: Path, tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("rounded", str(folder / "plain"), "huggingface", {"device": "cpu", "torch_dtype": "bfloat16"})
    forge.add_model("plain", str(folder / "plain.gguf"), "llama.cpp", {"n_threads": 1})
    assert parity.compare(forge, "plain", "rounded", PROMPT).verdict == "numerics"
    assert parity.compare(forge, "plain", "rounded", PROMPT, exact=True).verdict == "same"


def test_a_service_tells_no_tokens_but_the_same_text(folder: Path) -> None:
    forge = LlamaForge(folder)
    flags = ("--type_k", "0", "--type_v", "0", "--flash_attn", "False")
    with llama_cpp_server(folder / "plain.gguf", *flags) as url:
        forge.add_model("service", "tiny", "openai", {"api_base": url})
        same = parity.compare(forge, "plain", "service", PROMPT)
        other = parity.compare(forge, "service", "q8", PROMPT)
    assert same.verdict == "same" and same.because.endswith("anybody can tell: service tells no tokens.")
    assert other.verdict == "cannot tell" and other.difference is not None and other.difference.of == "answer"
    assert other.left.prompt is None and other.left.answer_tokens is None


def side(name: str, answer: str, ids: list[int], **changes: Any) -> Side:
    tokens = tuple(Token(number, f"t{number}") for number in ids)
    return dataclasses.replace(Side(name, "any", "prompt", (Token(1, "p"),), answer, tokens), **changes)


def test_an_answer_that_ends_where_the_other_goes_on_differs_there() -> None:
    report = parity.judge(side("a", "one", [1]), side("b", "one two", [1, 2]))
    assert report.verdict == "numerics" and report.difference is not None
    assert (report.difference.at, report.difference.left) == (1, "'t1' → the end")
    assert report.difference.right == "'t1' → 't2' (2)"


def test_the_same_tokens_for_other_texts_are_another_tokenizer() -> None:
    report = parity.judge(side("a", "one", [1]), side("b", "eins", [1]))
    assert report.verdict == "tokenizer"


def test_a_longest_answer_that_both_reach_is_no_difference() -> None:
    cut = {"finish_reason": "length"}
    assert parity.judge(side("a", "one", [1], **cut), side("b", "one", [1], **cut)).verdict == "same"


def test_the_command_prints_prompts_tokens_difference_and_verdict(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["plain", "unmerged", "--prompt", PROMPT, "--tokens", "8", "--config", str(folder)]
    assert parity.main(command) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("prompt of both: '<|im_start|>user\\nWhat is the answer?")
    assert [line.partition(":")[0] for line in said[1:5]] == [
        "its tokens of plain",
        "its tokens of unmerged",
        "answer of plain",
        "answer of unmerged",
    ]
    assert said[-1] == "verdict: tokenizer. Their tokenizers cut the same prompt differently."
    assert parity.main(["plain", "plain", *command[2:]]) == 0
    assert "verdict: same." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["plain", "nobody"], 1, "Unknown model 'nobody'"),
        (["plain", "plain", "--tokens", "0"], 2, "max_tokens must be"),
    ],
)
def test_what_the_command_cannot_do_is_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert parity.main([*arguments, "--prompt", PROMPT, "--config", str(folder)]) == code
    said = capsys.readouterr()
    assert words in said.err and said.out == ""
