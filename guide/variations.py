"""Other spellings of a question, as people type: fillers, synonyms, casing, punctuation and typos."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

import yaml

_wordings = yaml.safe_load((Path(__file__).parent / "wordings.yaml").read_text("utf-8"))
BEFORE: list[str] = _wordings["before"]
AFTER: list[str] = _wordings["after"]
FRAMES: list[str] = _wordings["frames"]
SAME: list[list[str]] = _wordings["same"]
SMALL = frozenset(_wordings["small"].split())
NEIGHBOURS = {
    key: row[max(0, place - 1) : place] + row[place + 1 : place + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for place, key in enumerate(row)
}
_SYNONYMS = {text: tuple(other for other in group if other != text) for group in SAME for text in group}
_FINDER = re.compile(r"\b(" + "|".join(re.escape(text) for text in sorted(_SYNONYMS, key=len, reverse=True)) + r")\b")


def vary(question: str, random: Random) -> str:
    """Return the question as somebody else might have typed it, in lower case; one in eight stays as it is."""
    text = question.lower()
    if random.random() < 1 / 8:
        return text
    if random.random() < 0.35:
        text = _with_synonym(text, random)
    if random.random() < 0.25:
        text = _without_small_word(text, random)
    if random.random() < 0.22:
        text = random.choice(BEFORE) + text
    if random.random() < 0.18:
        text = text.rstrip(" ?.!") + random.choice(AFTER) + text[len(text.rstrip(" ?.!")) :]
    if random.random() < 0.3:
        text = _in_other_order(text, random)
    if random.random() < 0.3:
        text = _with_typo(text, random)
    return _ended(text, random)


def small_words(question: str) -> str:
    """Return what is left of a question without its content: nobody can answer that."""
    return " ".join(word for word in question.lower().split() if word.strip("?,.!") in SMALL)


def with_other_words(question: str, others: Sequence[str], random: Random, keep: int = 0) -> str:
    """Return a question's frame about something else: its content words, all but `keep`, become others."""
    places = [match.span() for match in re.finditer(r"[\w'-]{3,}", question) if match[0].lower() not in SMALL]
    for start, end in sorted(random.sample(places, max(0, len(places) - keep)), reverse=True):
        question = question[:start] + random.choice(others) + question[end:]
    return question


def content_words(question: str) -> list[str]:
    """Return the words that a question is about."""
    return [word for word in re.findall(r"[a-z][a-z'-]{2,}", question.lower()) if word not in SMALL]


def _with_synonym(text: str, random: Random) -> str:
    found = list(_FINDER.finditer(text.lower()))
    if not found:
        return text
    match = random.choice(found)
    return text[: match.start()] + random.choice(_SYNONYMS[match[1]]) + text[match.end() :]


def _without_small_word(text: str, random: Random) -> str:
    words = text.split()
    small = [place for place, word in enumerate(words) if word.lower() in SMALL]
    if len(words) < 4 or not small:
        return text
    del words[random.choice(small)]
    return " ".join(words)


def _in_other_order(text: str, random: Random) -> str:
    """Leave a word out, or let two change places: what is asked must be known by more than one word."""
    words = text.split()
    if len(words) < 5:
        return text
    at = random.randrange(len(words) - 1)
    words[at : at + 2] = random.choice(([words[at]], [words[at + 1], words[at]]))
    return " ".join(words)


def _with_typo(text: str, random: Random) -> str:
    places = [match.start() for match in re.finditer(r"(?<=[a-zA-Z]{2})[a-z](?=[a-z])", text)]
    if not places:
        return text
    at = random.choice(places)
    letter = text[at]
    put = random.choice((letter * 2, "", text[at + 1] + letter, random.choice(NEIGHBOURS[letter] or letter)))
    return text[:at] + put + text[at + (2 if len(put) == 2 and put[0] != put[1] else 1) :]


def _ended(text: str, random: Random) -> str:
    bare = text.rstrip(" ?.!")
    return random.choice(
        (text, text, bare, bare, bare + "?", bare + "?", bare + " ?", bare + ".", bare + "!", bare + "??")
    )
