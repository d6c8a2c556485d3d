"""Text is only text: what a model or a visitor wrote is drawn as Markdown, and its HTML as the words that it is."""

from __future__ import annotations

import re
from collections.abc import Iterator

LATEX: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
FORMULAS = [(str(pair["left"]), str(pair["right"])) for pair in LATEX]
JOINER = "\u2060"  # WORD JOINER: no width and no line break, and no markup begins with it
TAG = r"(?i:/?(?:br|sub|sup|kbd|b|i|u|s|em|strong|mark|small|del|ins|hr)\s?/?>)"
# Languages of code over which Gradio stumbles: it draws a diagram, lacks what cpp builds on, or finds a name of
# JavaScript's own; where it fails, it shows nothing of the whole message.
LANGUAGE = (
    "mermaid|cpp|__|constructor|hasOwnProperty|isPrototypeOf|propertyIsEnumerable|toLocaleString|toString|valueOf"
)
# What begins HTML, a picture, or such code. The tags above and <https://…> may begin.
MARKUP = re.compile(
    rf"<(?=[a-zA-Z/!?{JOINER}])(?!{TAG}|https?://[^\s<>]*>)"
    rf"|!(?=[\[{JOINER}])"
    rf"|(?:```|~~~)(?=[ \t]*(?:{LANGUAGE})|{JOINER})"
)
JOINED = re.compile(rf"(<|!|```|~~~){JOINER}")
FENCE = re.compile(r"( {0,3})(`{3,}|~{3,})(?=[^`$\\]*$)")
CLOSING = re.compile(r"( *)([`~]+) *")
# What may hide the beginning of a fence, or its end: one in a list or a quote, a tag, the address of a link.
DOUBTFUL = re.compile(rf"```|~~~|\]:|^(?:[\s>*+-]|\d+[.)]|\[[ xX]\])*+(?:<{TAG}|\[(?!.*\]\())")


def harmless(text: str) -> str:
    """Return a text in which only Markdown is markup: HTML stands there as text, and a picture as a link.

    An invisible joiner parts what would begin something else. Code that is surely code is left alone, to be coloured.
    Where a joiner was already, one more is added, so that `exact` gives back any text.
    """
    parts: list[str] = []
    place = 0
    for begin, end in _code(text):
        parts += MARKUP.sub(rf"\g<0>{JOINER}", text[place:begin]), JOINED.sub(rf"\g<0>{JOINER}", text[begin:end])
        place = end
    return "".join([*parts, MARKUP.sub(rf"\g<0>{JOINER}", text[place:])])


def exact(shown: str) -> str:
    """Return the text that `harmless` was given."""
    return JOINED.sub(r"\1", shown)


def _code(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the code in fences begins and ends; from the first doubt on, nothing is taken for code."""
    if "\r" in text:  # a line end of its own, for Gradio
        return
    fence, begin, end = None, 0, -1
    for line in _without_formulas(text).split("\n"):
        start, end = end + 1, end + 1 + len(line)
        if fence is None:
            fence, begin = FENCE.match(line), end + 1
            if fence is None and DOUBTFUL.search(line):
                return
        elif (closing := CLOSING.fullmatch(line)) and closing[2].startswith(fence[2]):
            if closing[1] != fence[1]:
                return
            yield begin, start
            fence = None
        elif not line.startswith(fence[1]) and line.strip(" "):
            return
    if fence is not None:
        yield begin, len(text)


def _without_formulas(text: str) -> str:
    """Return a text with its formulas crossed out: Gradio takes them out before it looks for anything else."""
    for left, right in FORMULAS:
        last = text.rfind(right) + len(right)  # a search beyond it would take quadratic time
        formula = re.escape(left) + r"[\s\S]+?" + re.escape(right)
        text = re.sub(formula, lambda found: "x" * len(found[0]), text[:last]) + text[last:]
    return text
