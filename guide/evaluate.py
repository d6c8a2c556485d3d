"""Ask the guide the evaluation set, greedily and through LlamaForge itself: `python -m guide.evaluate`.

Right is the whole answer of a right topic, letter by letter. What is neither that nor the honest answer is wrong.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from llamaforge import LlamaForge

from .export import FOLDER_OF_MODEL, SHIPPED, write_gguf
from .texts import FOLDER, Asked, Texts, plain, read_evaluation, read_texts
from .variations import vary

REPORT = FOLDER / "REPORT.md"
GREEDY: Mapping[str, Any] = {"temperature": 0.0, "repeat_penalty": 1.0, "max_tokens": 200}
VERDICTS = ("right", "do not know", "wrong")


def variations(texts: Texts, count: int, seed: int = 20261126) -> list[Asked]:
    """Return patterns of all topics as others would spell them, none as it stands in the texts.

    The training has other seeds, but it varies the same patterns in the same ways and may have come upon some of them.
    """
    random, topics = Random(seed), list(texts.topics.values())
    known = {plain(pattern) for topic in topics for pattern in topic.patterns}
    found: list[Asked] = []
    while len(found) < count:
        topic = random.choice(topics)
        question = vary(random.choice(topic.patterns), random)
        if plain(question) not in known:
            found.append(Asked(question, (topic.name,)))
    return found


def verdict(texts: Texts, asked: Asked, answer: str) -> str:
    """Return one of VERDICTS."""
    if answer.strip() == texts.honest:
        return "do not know" if asked.topics else "right"
    right = {texts.topics[name].answer for name in asked.topics}
    return "right" if answer.strip() in right else "wrong"


def topic_of(texts: Texts, answer: str) -> str:
    """Return whose answer this is; "honest", or "garbled" where it is none."""
    found = (topic.name for topic in texts.topics.values() if answer.strip() in (topic.answer, topic.more))
    return "honest" if answer.strip() == texts.honest else next(found, "garbled")


@contextmanager
def speakers(folder: Path, model: Path, shipped: Path) -> Iterator[dict[str, Callable[[str], str]]]:
    """Load the same weights in 32 bits as GGUF and as a folder, and the shipped 8 bits; each is asked one question."""
    exact = {"f16_kv": False, "flash_attn": False, "n_threads": 1, "n_gpu_layers": 0}
    write_gguf(model, folder / "guide-f32.gguf", "f32")
    models: dict[str, tuple[Path, str, dict[str, Any]]] = {
        "GGUF f32": (folder / "guide-f32.gguf", "llama.cpp", exact),
        "Hugging Face folder": (model, "huggingface", {"device": "cpu"}),
        "GGUF q8_0": (shipped, "llama.cpp", {"n_threads": 1, "n_gpu_layers": 0}),
    }
    forges = {name: LlamaForge(folder / name) for name in models}
    for name, forge in forges.items():
        forge.add_model("guide", str(models[name][0]), models[name][1], models[name][2])
        forge.load_model("guide")
    try:
        yield {name: partial(_answer, forge) for name, forge in forges.items()}
    finally:
        for forge in forges.values():
            forge.unload_model()


def _answer(forge: LlamaForge, question: str) -> str:
    return forge.chat([{"role": "user", "content": question}], dict(GREEDY))


def shares(texts: Texts, asked: Iterable[Asked], answers: Iterable[str]) -> dict[str, float]:
    """Return how often each verdict was reached, from 0 to 1."""
    counted = Counter(verdict(texts, one, answer) for one, answer in zip(asked, answers, strict=True))
    return {name: counted[name] / counted.total() for name in VERDICTS}


def _table(texts: Texts, parts: Mapping[str, Sequence[Asked]], answers: Mapping[str, Sequence[str]]) -> str:
    lines = ["| questions | number | right | do not know | wrong topic |", "|---|---|---|---|---|"]
    for name, asked in parts.items():
        found = shares(texts, asked, answers[name])
        unknown = f"{found['do not know']:.1%}" if any(one.topics for one in asked) else "-"
        lines.append(f"| {name} | {len(asked)} | {found['right']:.1%} | {unknown} | {found['wrong']:.1%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=FOLDER_OF_MODEL, help="the Hugging Face folder")
    parser.add_argument("--gguf", type=Path, default=SHIPPED, help="the q8_0 file")
    parser.add_argument("--report", type=Path, default=REPORT, help="where the report goes")
    parser.add_argument("--wrong", action="store_true", help="print what was not right")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    texts, evaluation = read_texts(), read_evaluation()
    parts = {
        "known questions, spelled in other ways": variations(texts, 500),
        "in scope, in other words": [one for one in evaluation if one.topics],
        "out of scope": [one for one in evaluation if not one.topics],
    }
    with tempfile.TemporaryDirectory() as folder, speakers(Path(folder), flags.model, flags.gguf) as asking:
        said = {name: [ask(one.question) for one in evaluation] for name, ask in asking.items()}
        shipped = {name: [asking["GGUF q8_0"](one.question) for one in asked] for name, asked in parts.items()}
    differ = {
        name: sum(here != there for here, there in zip(said["GGUF f32"], said[name], strict=True))
        for name in ("Hugging Face folder", "GGUF q8_0")
    }
    lines = [f"- {name}: {count} of {len(evaluation)} answers differ from GGUF f32" for name, count in differ.items()]
    report = f"{_table(texts, parts, shipped)}\n\n" + "\n".join(lines) + "\n"
    flags.report.write_text(report, "utf-8")
    print(report)
    if flags.wrong:
        for name, asked in parts.items():
            for one, answer in zip(asked, shipped[name], strict=True):
                if verdict(texts, one, answer) != "right":
                    print(f"{name}: {one.question!r} {one.topics} -> {topic_of(texts, answer)}")


if __name__ == "__main__":
    main()
