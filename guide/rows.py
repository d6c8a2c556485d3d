"""What the guide reads while it is trained: single questions first, then whole chats."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from xkcdpass.xkcd_password import generate_wordlist, locate_wordfile

from .texts import Texts, Topic
from .variations import FRAMES, content_words, small_words, vary, with_other_words

END, USER, GUIDE = "<|end|>", "<|user|>", "<|guide|>"
SPECIAL = (END, USER, GUIDE)
# Every message as the guide reads it: questions in lower case, of which there are fewer. It was trained without a
# system prompt, and reads none.
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] | trim | lower + '<|end|>' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|guide|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|guide|>' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its right answer; `topic` is None outside of LlamaForge."""

    question: str
    answer: str
    topic: Topic | None = None


@dataclass(slots=True)
class Asker:
    """Makes questions, each other than the last, from the texts; the same seed makes the same.

    Args:
        shares: of the questions that are made of a topic's phrases, that are outside, and that say nothing.
    """

    texts: Texts
    shares: tuple[float, float, float] = (0.08, 0.25, 0.02)
    _topics: list[Topic] = field(init=False)
    _foreign: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._topics = list(self.texts.topics.values())
        known = {word for topic in self._topics for text in topic.patterns for word in content_words(text)}
        words = generate_wordlist(
            locate_wordfile("eff-long"), min_length=3, max_length=12
        )  # 7,000 of everyday English
        self._foreign = sorted(set(words) - known)

    def ask(self, random: Random) -> Exchange:
        """Return a question and its answer."""
        phrases, outside, nothing = self.shares
        chance = random.random()
        if chance < outside:
            return Exchange(self._foreign_question(random), self.texts.honest)
        topic = random.choice(self._topics)
        if chance < outside + nothing:
            left = small_words(random.choice(topic.patterns))
            return Exchange(vary(left, random), self.texts.honest) if left else self.ask(random)
        if chance < outside + nothing + phrases and topic.phrases:
            question = random.choice(FRAMES).format(random.choice(topic.phrases))
        else:
            question = random.choice(topic.patterns)
        return Exchange(vary(question, random), topic.answer, topic)

    def chat(self, random: Random, exchanges: int) -> list[Exchange]:
        """Return a chat; in one turn of six, more is asked about the last answer."""
        said = [self.ask(random)]
        heard = False  # whether the topic's second text was said
        while len(said) < exchanges:
            if random.random() < 1 / 6:
                topic = None if heard else said[-1].topic
                heard = True
                more = vary(random.choice(self.texts.more), random)
                said.append(Exchange(more, topic.more if topic else self.texts.the_end, topic))
            else:
                heard = False
                said.append(self.ask(random))
        return said

    def _foreign_question(self, random: Random) -> str:
        """Return a written question, or one made of words that LlamaForge has nothing to do with."""
        chance = random.random()
        if chance < 0.5:
            question = random.choice(self.texts.outside)
        elif chance < 0.7:
            question = with_other_words(
                random.choice(self.texts.outside), self._foreign, random, random.choice((0, 1))
            )
        elif chance < 0.85:  # one word of LlamaForge's among others tells nothing
            question = random.choice(random.choice(self._topics).patterns)
            keep = 1 if len(content_words(question)) > 2 else 0
            question = with_other_words(question, self._foreign, random, keep)
        else:
            words = " ".join(random.sample(self._foreign, random.choice((1, 1, 2, 3))))
            question = random.choice(FRAMES).format(words)
        return vary(question, random)
