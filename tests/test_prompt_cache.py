"""A chat that comes again is not evaluated again: what is kept of the chats that are left, and what it may take."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted import PATIENCE
from tiny_gguf import THINKING_ANSWER, write_tiny_gguf
from tiny_hf import write_random_pair
from tiny_mamba import write_tiny_mamba

from llamaforge import LlamaForge, Message, Usage
from llamaforge.memory import Memory
from llamaforge.prompt_cache import MOST_BYTES, PromptCache, capacity_of, common_prefix
from llamaforge.types import MemoryNeed

Load = Callable[..., LlamaForge]

GREEDY = {"temperature": 0.0, "max_tokens": 12}
STORY = "tell me a story about a llama that counts " * 4
GIB = 2**30


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_random_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(params=["llama.cpp", "worker", "huggingface"])
def load(request: pytest.FixtureRequest, pair: tuple[Path, Path], tmp_path: Path) -> Iterator[Load]:
    """Load the same random weights in llama.cpp, also in a worker, and in transformers."""
    made: list[LlamaForge] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def load_with(**parameters: Any) -> LlamaForge:
        forge = LlamaForge(tmp_path / str(len(made)), isolate=request.param == "worker")
        if request.param == "huggingface":
            given = {"torch_dtype": "float32", "device": "cpu", **parameters}
            forge.add_model("pair", str(pair[1]), "huggingface", given)
        else:
            forge.add_model("pair", str(pair[0]), "llama.cpp", {"n_threads": 1, **parameters})
        forge.load_model("pair")
        made.append(forge)
        return forge

    yield load_with
    for forge in made:
        forge.unload_model()
    torch.set_num_threads(threads)


class Chat:
    """A chat that goes on with a model, and what its last answer took."""

    def __init__(self, forge: LlamaForge, topic: str, system: str = "") -> None:
        self.forge = forge
        self.messages = [Message("system", system)] if system else []
        self.topic = topic
        self.tokens = 0  # that are old: of the last prompt and the answer to it
        self.usage = Usage(0, 0)

    def say(self, text: str, **parameters: Any) -> str:
        self.messages.append(Message("user", f"{self.topic} {text}"))
        answer = self.answer(**parameters)
        self.messages.append(Message("assistant", answer))
        return answer

    def answer(self, **parameters: Any) -> str:
        before = self.usage
        result = self.forge.chat_stream(self.messages, {**GREEDY, **parameters}).wait(PATIENCE)
        assert result is not None and result.usage is not None, result
        self.usage = result.usage
        self.tokens = before.prompt_tokens + before.completion_tokens
        return result.text

    @property
    def old_evaluated(self) -> int:
        """How many tokens of what was said before were evaluated again; the last one of an answer never was."""
        return max(0, self.tokens - 1 - self.usage.cached_tokens)


def test_two_chats_in_turn_evaluate_no_old_token(load: Load) -> None:
    forge = load()
    chats = [Chat(forge, f"{STORY} one"), Chat(forge, f"count {STORY} two")]
    for turn in range(5):
        for chat in chats:
            chat.say(f"and then {turn}")
            assert chat.old_evaluated == 0, turn


def test_the_text_is_the_one_without_a_cache(load: Load) -> None:
    def told(forge: LlamaForge) -> list[str]:
        chats = [Chat(forge, f"{STORY} one", "Be short."), Chat(forge, f"{STORY} two", "Be short.")]
        return [chat.say(f"and {turn}") for turn in range(3) for chat in chats]

    assert told(load()) == told(load(prompt_cache_mb=0))


def test_without_room_for_them_no_chat_is_kept(load: Load) -> None:
    forge = load(prompt_cache_mb=0)
    chats = [Chat(forge, f"{STORY} one"), Chat(forge, f"count {STORY} two")]
    for turn in range(2):
        for chat in chats:
            chat.say(f"and then {turn}")
    assert chats[1].old_evaluated > 50


def test_a_new_answer_evaluates_the_last_token_of_its_prompt(load: Load) -> None:
    forge = load()
    chat, other = Chat(forge, STORY), Chat(forge, f"count {STORY}")
    first = chat.say("one")
    for leave in (False, True):  # at once, and after another chat
        if leave:
            other.say("two")
        chat.messages.pop()
        assert chat.answer() == first
        assert chat.usage.cached_tokens == chat.usage.prompt_tokens - 1
        chat.messages.append(Message("assistant", first))


def test_an_answer_that_goes_on_evaluates_one_token(load: Load) -> None:
    forge = load()
    chat = Chat(forge, STORY)
    chat.say("one")
    Chat(forge, f"count {STORY}").say("two")
    chat.answer()  # the last message is the answer, so it goes on
    assert chat.usage.prompt_tokens - chat.usage.cached_tokens == 1


@pytest.mark.parametrize("place", [2, 4], ids=["an earlier message", "the last message"])
def test_an_edit_evaluates_from_what_is_different(load: Load, place: int) -> None:
    def told(forge: LlamaForge) -> tuple[list[str], Chat, Chat, int | None]:
        chat, edited = Chat(forge, STORY), Chat(forge, STORY)
        texts = [chat.say(f"turn {turn}") for turn in range(3)]
        before = forge.prompt(chat.messages[:place])
        Chat(forge, f"count {STORY}").say("two")
        edited.messages = [*chat.messages[:place], Message("user", "And you?")]
        texts.append(edited.answer())
        chat.say("goes on as it was")
        return texts, chat, edited, before and before.tokens

    texts, chat, edited, shared = told(load())
    assert shared is not None and shared - 1 <= edited.usage.cached_tokens < shared + 20
    assert chat.old_evaluated == 0
    assert texts == told(load(prompt_cache_mb=0))[0]


def test_the_least_recently_used_goes_where_room_is_short(load: Load) -> None:
    forge = load(prompt_cache_mb=1)
    chats = [Chat(forge, f"{number} {STORY * 4}") for number in range(12)]
    for chat in chats:
        chat.say("one")
    chats[-2].say("two")
    assert chats[-2].old_evaluated == 0
    chats[0].say("two")
    assert chats[0].old_evaluated > 40


def test_after_a_stop_the_chat_goes_on_rightly(load: Load) -> None:
    forge = load()
    chat, other = Chat(forge, STORY), Chat(forge, f"count {STORY}")
    chat.say("one")
    answer = forge.chat_stream([*other.messages, Message("user", STORY * 6)], {"temperature": 0.0, "max_tokens": 500})
    next(iter(answer))
    answer.stop()
    assert answer.wait(PATIENCE) is not None
    chat.say("two")
    assert chat.old_evaluated == 0


def test_a_chat_that_goes_on_leaves_nothing_behind(pair: tuple[Path, Path], tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("pair", str(pair[0]), "llama.cpp", {"n_threads": 1})
    forge.load_model("pair")
    kept = forge._engine.backend._context._left  # type: ignore[union-attr, attr-defined]
    chat = Chat(forge, STORY)
    for turn in range(3):
        chat.say(f"turn {turn}")
        chat.messages.pop()
        chat.answer()
    assert kept.size == 0
    Chat(forge, f"count {STORY}").say("one")
    assert kept.size > 0
    gone = weakref.ref(kept)
    del kept
    forge.unload_model()
    assert gone() is None


def test_thoughts_are_read_once_more_without_them_and_nothing_before_them(tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("tiny", str(write_tiny_gguf(tmp_path / "m.gguf", THINKING_ANSWER)), "llama.cpp", {"n_threads": 1})
    forge.load_model("tiny")
    chat, evaluated = Chat(forge, "Hello"), []
    for turn in range(6):
        chat.say(f"and {turn}", max_tokens=100)
        evaluated.append(chat.usage.prompt_tokens - chat.usage.cached_tokens)
    assert chat.messages[-1].content == "The answer is **42**."  # the thoughts are not sent back
    assert max(evaluated[1:]) <= min(evaluated[1:]) + 2 < chat.usage.prompt_tokens // 3
    forge.unload_model()


def test_a_sliding_window_that_is_full_is_read_anew(pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "sliding"
    folder.mkdir()
    for file in pair[1].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 32}
    (folder / "config.json").write_text(json.dumps(config))
    told = []
    for number, megabytes in enumerate((100, 0)):
        forge = LlamaForge(tmp_path / str(number))
        given = {"torch_dtype": "float32", "device": "cpu", "prompt_cache_mb": megabytes}
        forge.add_model("sliding", str(folder), "huggingface", given)
        forge.load_model("sliding")
        chats = [Chat(forge, f"{STORY} one"), Chat(forge, f"count {STORY} two")]
        texts = [chat.say(f"and {turn}") for turn in range(3) for chat in chats]
        old = chats[0].old_evaluated
        chats[0].messages.pop()
        told.append([*texts, chats[0].answer()])
        forge.unload_model()
        assert (old == 0) == (megabytes > 0)
    assert told[0] == told[1]


def test_a_recurrent_model_goes_on_where_a_chat_ended_and_never_goes_back(tmp_path: Path) -> None:
    path = write_tiny_mamba(tmp_path / "mamba.gguf")
    told = []
    for number, megabytes in enumerate((100, 0)):
        forge = LlamaForge(tmp_path / str(number))
        forge.add_model("mamba", str(path), "llama.cpp", {"n_threads": 1, "prompt_cache_mb": megabytes})
        forge.load_model("mamba")
        chats = [Chat(forge, "Hello one"), Chat(forge, "You two")]
        texts = [chat.say(f"and {turn}") for turn in range(3) for chat in chats]
        assert (chats[0].old_evaluated == 0) == (megabytes > 0)
        del chats[0].messages[3:]
        texts.append(chats[0].answer())
        assert chats[0].usage.cached_tokens == 0
        told.append(texts)
        forge.unload_model()
    assert told[0] == told[1]


class Abacus:
    """An engine whose state is the tokens that it holds, of ten bytes each."""

    def __init__(self, *, goes_back: bool = True) -> None:
        self.held: list[int] = []
        self.goes_back = goes_back

    def size(self) -> int:
        return 10 * len(self.held)

    def copied(self) -> list[int]:
        return list(self.held)

    def may_be_cut(self, state: list[int]) -> bool:
        return self.goes_back

    def read(self, cache: PromptCache[list[int]], prompt: list[int], chat: str) -> int:
        """Read a prompt of a chat; return how many tokens were not evaluated."""
        common, state = cache.turn_to([Message("user", chat)], prompt, self.held, self)
        assert (state if state is not None else self.held)[:common] == prompt[:common]
        if common < len(state if state is not None else self.held) and not self.goes_back:
            common = 0
        self.held = prompt
        return common


A, B, C = list(range(100)), list(range(1000, 1100)), list(range(2000, 2100))


def test_a_state_comes_back_as_often_as_its_chat_does() -> None:
    cache, engine = PromptCache[list[int]](10_000), Abacus()
    read = [engine.read(cache, prompt, str(prompt[0])) for prompt in (A, B, [*A, 1], [*B, 2], [*A, 1, 3])]
    assert read == [0, 0, 100, 100, 101]
    assert cache.size == 1010  # the other chat


def test_the_bound_holds_and_what_was_used_last_stays() -> None:
    cache, engine = PromptCache[list[int]](2100), Abacus()
    for prompt in (A, B, C, [*A, 1], list(range(3000, 3100))):
        engine.read(cache, prompt, str(prompt))
        assert cache.size <= 2100
    assert engine.read(cache, [*A, 1, 2], "a") == 101
    assert engine.read(cache, [*B, 2], "b") == 0


def test_a_state_larger_than_the_bound_costs_no_other_one() -> None:
    cache, engine = PromptCache[list[int]](1500), Abacus()
    for prompt in (A, list(range(5000, 5200)), C):
        engine.read(cache, prompt, str(prompt[0]))
    assert engine.read(cache, [*A, 1], "a") == 100


def test_a_chat_that_was_kept_shorter_is_kept_once() -> None:
    cache, engine = PromptCache[list[int]](100_000), Abacus(goes_back=False)
    for prompt in (A, B, [*A, 1], [*B, 2], [*A, 1, 3], B):
        engine.read(cache, prompt, str(prompt))
    assert cache.size == 10 * (102 + 101)


def test_what_shares_little_more_is_not_copied_for_it() -> None:
    cache, engine = PromptCache[list[int]](100_000), Abacus()
    engine.read(cache, A * 10, "a")
    engine.read(cache, B, "b")
    assert engine.read(cache, [0, 1, 2, *C], "c") == 0
    assert engine.read(cache, [*A, 7, 7], "d") == 100


def test_an_engine_that_cannot_go_back_is_given_only_what_it_can_go_on_from() -> None:
    for goes_back, shared in ((True, 100), (False, 0)):
        cache, engine = PromptCache[list[int]](100_000), Abacus(goes_back=goes_back)
        engine.read(cache, [*A, 5, 6], "a")
        engine.read(cache, B, "b")
        assert engine.read(cache, [*A, 7, 8], "edit") == shared
        engine.read(cache, C, "c")
        assert engine.read(cache, [*A, 5, 6, 9], "a") == 102


def test_a_state_for_which_there_is_no_memory_is_not_kept() -> None:
    class Poor(Abacus):
        def copied(self) -> list[int]:
            raise MemoryError

    cache, engine = PromptCache[list[int]](100_000), Poor()
    assert [engine.read(cache, prompt, str(prompt[0])) for prompt in (A, B, A)] == [0, 0, 0]


def test_the_bound_is_what_is_asked_for_else_a_quarter_of_what_is_left() -> None:
    need = MemoryNeed(weights=4 * GIB, kv_cache=GIB)
    assert capacity_of(3, need, Memory(0, 0)) == 3_000_000
    assert capacity_of(0, None, Memory(64 * GIB, 64 * GIB)) == 0
    assert capacity_of(None, need, Memory(64 * GIB, 64 * GIB)) == MOST_BYTES
    assert capacity_of(None, need, Memory(8 * GIB, 8 * GIB)) == 5 * GIB // 8  # of 2.5 GiB beyond the headroom
    assert capacity_of(None, need, Memory(8 * GIB, 4 * GIB)) == 0
    assert capacity_of(None, need, Memory(8 * GIB, 3 * GIB, 24 * GIB, 24 * GIB)) == 5 * GIB // 8


def test_a_common_prefix_ends_at_the_first_difference() -> None:
    assert [common_prefix(*pair) for pair in (([], [1]), ([1, 2], [1, 2, 3]), ([1, 9, 3], [1, 2, 3]))] == [0, 2, 1]
