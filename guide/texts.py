"""The guide's text: topics with their answers and the ways to ask for them, and what it must not answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing that the guide knows.

    Args:
        answer: begins with its subject, so that its first tokens tell the topic.
        more: said when somebody asks to hear more of it.
        patterns: ways to ask, by several people.
        phrases: nouns for it, which fit into "what is ...".
    """

    name: str
    answer: str
    more: str
    patterns: tuple[str, ...]
    phrases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Texts:
    """All text that the guide is trained on.

    Args:
        outside: questions that are not about LlamaForge; `honest` is the one answer to all of them.
        more: ways to ask for more of the same; `the_end` is said when there is no more.
    """

    topics: Mapping[str, Topic]
    outside: tuple[str, ...]
    honest: str
    more: tuple[str, ...]
    the_end: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of the evaluation set; any of `topics` is a right answer, and none means the honest one."""

    question: str
    topics: tuple[str, ...]


def read_texts(folder: Path = FOLDER) -> Texts:
    """Read topics/*.yaml, outside.yaml and more.yaml."""
    topics = {
        name: Topic(name, body["answer"], body["more"], tuple(body["patterns"]), tuple(body["phrases"]))
        for file in sorted((folder / "topics").glob("*.yaml"))
        for name, body in yaml.safe_load(file.read_text("utf-8")).items()
    }
    outside = yaml.safe_load((folder / "outside.yaml").read_text("utf-8"))
    more = yaml.safe_load((folder / "more.yaml").read_text("utf-8"))
    questions = tuple(question for kind in outside["questions"].values() for question in kind)
    return Texts(topics, questions, outside["answer"], tuple(more["questions"]), more["answer"])


def read_evaluation(folder: Path = FOLDER) -> list[Asked]:
    """Read evaluation.yaml, which was written apart from the patterns and which nothing is trained on."""
    both = yaml.safe_load((folder / "evaluation.yaml").read_text("utf-8"))
    inside = [Asked(one["ask"], tuple(one["topics"])) for one in both["inside"]]
    return inside + [Asked(question, ()) for question in both["outside"]]


def plain(question: str) -> str:
    """Return a question without what is no letter or digit, to tell whether two are the same."""
    return re.sub(r"[^a-z0-9 ]+", "", question.lower()).strip()
