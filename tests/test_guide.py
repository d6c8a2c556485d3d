"""The guide: its text keeps its rules, its training can be interrupted, and its weights say the same everywhere."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random

import pytest
import torch
import yaml
from openai_kit import llama_cpp_server

from guide.evaluate import GREEDY, shares, speakers, topic_of, variations, verdict
from guide.export import FOLDER_OF_MODEL, SHIPPED, write_folder, write_gguf
from guide.rows import Asker
from guide.texts import Asked, Texts, plain, read_evaluation, read_texts
from guide.train import CONTEXT, QUICK, Reader, train, train_tokenizer
from guide.variations import FRAMES, vary
from llamaforge import LlamaForge, describe, get_backend, parity

ROOT = Path(__file__).parent.parent
NO_SUBJECT = ("yes", "no", "it", "this", "that", "you can", "to", "there", "sure", "of course")
EVALUATION = read_evaluation()


@pytest.fixture(scope="module")
def texts() -> Texts:
    return read_texts()


# The text


def test_there_are_topics_enough_each_asked_for_in_many_ways(texts: Texts) -> None:
    assert len(texts.topics) >= 40
    assert {name: len(topic.patterns) for name, topic in texts.topics.items() if len(topic.patterns) < 15} == {}
    assert len(texts.outside) >= 300


def test_every_answer_begins_with_its_subject(texts: Texts) -> None:
    answers = [topic.answer for topic in texts.topics.values()] + [topic.more for topic in texts.topics.values()]
    openings = tuple(f"{word}{end}" for word in NO_SUBJECT for end in (" ", ",", "."))
    assert [text for text in (*answers, texts.honest, texts.the_end) if text.lower().startswith(openings)] == []


def test_the_first_words_of_an_answer_tell_its_topic(texts: Texts) -> None:
    openings = Counter(" ".join(topic.answer.split()[:4]) for topic in texts.topics.values())
    assert [opening for opening, count in openings.items() if count > 1] == []


def test_no_question_belongs_to_two_topics(texts: Texts) -> None:
    asked = [plain(pattern) for topic in texts.topics.values() for pattern in topic.patterns]
    asked += [plain(question) for question in texts.outside]
    assert [question for question, count in Counter(asked).items() if count > 1] == []


def test_every_parameter_is_told_of(texts: Texts) -> None:
    told = " ".join(f"{topic.answer} {topic.more}" for topic in texts.topics.values())
    backends = ("llama.cpp", "huggingface", "openai")
    names = {name for backend in backends for name in describe(get_backend(backend).Parameters)}
    names -= {"stop", "seed", "temperature"}  # written as plain words
    assert sorted(name for name in names if f"`{name}`" not in told and f"{name}:" not in told) == []


def test_the_evaluation_was_written_apart(texts: Texts) -> None:
    trained_on = {plain(text) for topic in texts.topics.values() for text in (*topic.patterns, *topic.phrases)}
    trained_on |= {plain(question) for question in texts.outside}
    phrases = [phrase for topic in texts.topics.values() for phrase in topic.phrases]
    trained_on |= {plain(frame.format(phrase)) for frame in FRAMES for phrase in phrases}
    assert [asked.question for asked in EVALUATION if plain(asked.question) in trained_on] == []


def test_the_evaluation_is_large_enough_and_of_topics_that_there_are(texts: Texts) -> None:
    assert sum(bool(asked.topics) for asked in EVALUATION) >= 120
    assert sum(not asked.topics for asked in EVALUATION) >= 60
    assert {name for asked in EVALUATION for name in asked.topics} <= set(texts.topics)


# What is made of it


def test_the_same_seed_varies_a_question_in_the_same_way(texts: Texts) -> None:
    question = "How do I add a model of my own?"
    varied = [[vary(question, Random(seed)) for seed in range(50)] for _ in range(2)]
    assert varied[0] == varied[1]
    assert len(set(varied[0])) > 25


def test_more_of_an_answer_follows_only_that_answer(texts: Texts) -> None:
    more = {topic.more: topic.answer for topic in texts.topics.values()}
    seen = 0
    for seed in range(60):
        chat = Asker(texts).chat(Random(seed), 20)
        for before, exchange in zip(chat, chat[1:], strict=False):
            if exchange.answer in more:
                seen += 1
                assert before.answer == more[exchange.answer]
    assert seen > 20


def test_a_row_is_learned_in_its_answers_alone_and_no_longer_than_the_window(texts: Texts) -> None:
    reader = Reader(Asker(texts), train_tokenizer(Asker(texts), QUICK), QUICK)
    ids, labels = reader.rows(QUICK.steps - 1)[0]
    assert len(ids) == len(labels) <= CONTEXT
    learned = [label for label in labels if label >= 0]
    assert learned == [token for token, label in zip(ids, labels, strict=True) if label >= 0]
    assert "<|user|>" not in reader.tokenizer.decode(learned, skip_special_tokens=False)


# Training and export


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", QUICK)
    train(tmp_path / "parts", QUICK, until=3)
    parts = train(tmp_path / "parts", QUICK)
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], weight, rtol=0, atol=1e-6, msg=name)


def test_a_training_of_another_recipe_is_not_gone_on_with(tmp_path: Path) -> None:
    train(tmp_path, QUICK, until=1)
    with pytest.raises(ValueError, match="another recipe"):
        train(tmp_path, type(QUICK)(**{name: getattr(QUICK, name) for name in ("tokens", "width")}), until=1)


def test_a_training_of_other_texts_is_not_gone_on_with(texts: Texts, tmp_path: Path) -> None:
    train(tmp_path, QUICK, texts, until=1)
    with pytest.raises(ValueError, match="other texts"):
        train(tmp_path, QUICK, dataclasses.replace(texts, honest="Another answer."), until=2)


def test_what_was_trained_is_written_as_a_folder_and_a_file_that_both_answer(tmp_path: Path) -> None:
    train(tmp_path / "training", QUICK, until=1)
    write_folder(tmp_path / "training", tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "guide.gguf", "q8_0")
    for name, path, backend in (("file", "guide.gguf", "llama.cpp"), ("folder", "model", "huggingface")):
        forge = LlamaForge(tmp_path / name)
        forge.add_model(
            "guide", str(tmp_path / path), backend, {"device": "cpu"} if name == "folder" else {"n_threads": 1}
        )
        forge.load_model("guide")
        assert isinstance(forge.chat([{"role": "user", "content": "Hello"}], {"max_tokens": 4}), str)
        forge.unload_model()


def test_the_shipped_file_is_what_the_export_makes_of_the_folder(tmp_path: Path) -> None:
    write_gguf(FOLDER_OF_MODEL, tmp_path / "again.gguf", "q8_0")
    assert (tmp_path / "again.gguf").read_bytes() == SHIPPED.read_bytes()


def test_the_shipped_file_is_small() -> None:
    assert SHIPPED.stat().st_size <= 4_000_000


# What it says


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Callable[[str], str]]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with speakers(tmp_path_factory.mktemp("guide"), FOLDER_OF_MODEL, SHIPPED) as asking:
        yield asking
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def said(asking: Mapping[str, Callable[[str], str]]) -> dict[str, list[str]]:
    """Every engine's answers to the whole evaluation set."""
    return {name: [ask(asked.question) for asked in EVALUATION] for name, ask in asking.items()}


def test_file_and_folder_in_32_bits_say_the_same_to_the_whole_evaluation_set(said: dict[str, list[str]]) -> None:
    differ = [
        asked.question
        for asked, file, folder in zip(EVALUATION, said["GGUF f32"], said["Hugging Face folder"], strict=True)
        if file != folder
    ]
    assert differ == []


def test_eight_bits_change_at_most_two_answers_of_a_hundred(said: dict[str, list[str]]) -> None:
    differ = sum(here != there for here, there in zip(said["GGUF f32"], said["GGUF q8_0"], strict=True))
    assert differ <= math.floor(0.02 * len(EVALUATION))


def test_a_server_says_what_the_file_says(asking: Mapping[str, Callable[[str], str]], tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    write_gguf(FOLDER_OF_MODEL, tmp_path / "guide.gguf", "f32")  # the server's own build may not bear 8 bits here
    with llama_cpp_server(tmp_path / "guide.gguf", "--type_k", "0", "--type_v", "0", "--n_gpu_layers", "0") as url:
        forge.add_model("guide", "tiny", "openai", {"api_base": url})
        forge.load_model("guide")
        for asked in EVALUATION[::20]:
            chat = [{"role": "user", "content": asked.question}]
            assert forge.chat(chat, {"temperature": 0.0, "max_tokens": 200}) == asking["GGUF f32"](asked.question)


def test_the_page_about_the_guide_shows_its_report() -> None:
    table = (ROOT / "guide" / "REPORT.md").read_text("utf-8")
    assert f"<!-- guide -->\n{table}<!-- end -->" in (ROOT / "docs" / "guides" / "guide.md").read_text("utf-8")


@pytest.mark.parametrize("part", ["known", "inside", "outside"])
def test_the_report_tells_what_is_measured(
    texts: Texts, asking: Mapping[str, Callable[[str], str]], part: str
) -> None:
    known = variations(texts, 500) if part == "known" else []
    asked = known or [one for one in EVALUATION if bool(one.topics) == (part == "inside")]
    found = shares(texts, asked, [asking["GGUF q8_0"](one.question) for one in asked])
    rows = (ROOT / "guide" / "REPORT.md").read_text("utf-8").splitlines()[2:5]
    told = rows[["known", "inside", "outside"].index(part)].strip("| ").split(" | ")
    assert int(told[1]) == len(asked)
    # Another processor may round otherwise, and so change an answer or two.
    assert float(told[2].rstrip("%")) / 100 == pytest.approx(found["right"], abs=0.02)
    assert float(told[4].rstrip("%")) / 100 == pytest.approx(found["wrong"], abs=0.02)


def test_every_question_that_an_empty_chat_offers_is_answered_rightly(
    texts: Texts, asking: Mapping[str, Callable[[str], str]]
) -> None:
    offered = yaml.safe_load((ROOT / "configs" / "models" / "guide.yaml").read_text("utf-8"))["examples"]
    wanted = ["what_is", "add_model", "choose_backend", "privacy", "temperature"]
    assert len(offered) == 5
    for name, ask in asking.items():
        assert [topic_of(texts, ask(question)) for question in offered] == wanted, name


def test_more_is_told_where_more_is_asked_for(texts: Texts, tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("guide", str(SHIPPED), "llama.cpp", {"n_threads": 1, "n_gpu_layers": 0})
    forge.load_model("guide")
    topic = texts.topics["temperature"]
    chat = [
        {"role": "user", "content": "What does temperature do?"},
        {"role": "assistant", "content": topic.answer},
        {"role": "user", "content": "Tell me more"},
    ]
    assert forge.chat(chat, dict(GREEDY)) == topic.more
    forge.unload_model()


def test_far_into_a_chat_each_question_is_still_taken_for_itself(texts: Texts, tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("guide", str(SHIPPED), "llama.cpp", {"n_threads": 1, "n_gpu_layers": 0, "n_ctx": CONTEXT})
    forge.load_model("guide")
    chat: list[dict[str, str]] = []
    right = 0
    for topic in list(texts.topics.values())[5:70:5]:
        chat.append({"role": "user", "content": topic.patterns[0]})
        right += forge.chat(chat, dict(GREEDY)) == topic.answer
        chat.append({"role": "assistant", "content": topic.answer})
    forge.unload_model()
    assert len(chat) == 26
    assert right >= 11


def test_parity_finds_file_and_folder_the_same(tmp_path: Path) -> None:
    write_gguf(FOLDER_OF_MODEL, tmp_path / "guide.gguf", "f32")
    forge = LlamaForge(tmp_path)
    forge.add_model("file", str(tmp_path / "guide.gguf"), "llama.cpp", {"f16_kv": False, "n_threads": 1})
    forge.add_model("folder", str(FOLDER_OF_MODEL), "huggingface", {"device": "cpu"})
    report = parity.compare(forge, "file", "folder", "What does temperature do?")
    assert report.verdict == "same", parity.lines_of(report)


def test_a_verdict_is_by_the_whole_answer(texts: Texts) -> None:
    seed, honest = texts.topics["seed"].answer, texts.honest
    asked, outside = Asked("?", ("seed",)), Asked("?", ())
    assert [verdict(texts, asked, said) for said in (seed, honest, seed[:-5])] == ["right", "do not know", "wrong"]
    assert [verdict(texts, outside, said) for said in (honest, seed)] == ["right", "wrong"]
