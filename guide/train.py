"""Train the guide from scratch: `python -m guide.train`; interrupted, it goes on where it was.

A Llama of 1.1 million parameters with a byte-level BPE of its own. Rows of one question first, their answers mostly
cut after the tokens that tell the topic, then chats of up to 1,024 tokens, at the end uncut.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from .rows import END, GUIDE, SPECIAL, USER, Asker, Exchange
from .texts import FOLDER, Texts, read_texts
from .variations import AFTER, BEFORE, FRAMES, SAME, SMALL

CONTEXT = 1024  # tokens that the longest row has, and so the context window
IGNORED = -100  # PyTorch's own label for what is not learned


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what comes out, with the texts and the versions of the libraries.

    Args:
        steps: of the optimizer; each reads about `tokens` tokens.
        chats_from: the share of the steps after which whole chats are read too; from `uncut_from` on no answer is cut.
    """

    seed: int = 7
    steps: int = 4400
    tokens: int = 4096
    vocabulary: int = 2048
    width: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 384
    rate: float = 2e-3
    decay: float = 0.1
    warmup: int = 300
    chats_from: float = 0.6
    uncut_from: float = 0.85


QUICK = Recipe(steps=6, tokens=1024, vocabulary=512, width=32, layers=1, heads=1, feed_forward=64, warmup=2)


def train_tokenizer(asker: Asker, recipe: Recipe) -> Tokenizer:
    """Return a byte-level BPE, as llama.cpp's "gpt-2": no blank is put before a text, and none is lost."""
    random = Random(recipe.seed)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    texts = asker.texts
    answers = [text for topic in texts.topics.values() for text in (topic.answer, topic.more)]
    corpus = (answers + [texts.honest, texts.the_end]) * 4 + [asker.ask(random).question for _ in range(40_000)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def new_model(recipe: Recipe, tokenizer: Tokenizer) -> LlamaForCausalLM:
    """Return the model before its first step."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=recipe.width,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(END),
        attention_dropout=0.0,
    )
    return LlamaForCausalLM(config)


@dataclass(slots=True)
class Reader:
    """Makes the rows of each step: the same step is the same rows, whenever it is made."""

    asker: Asker
    tokenizer: Tokenizer
    recipe: Recipe

    def rows(self, step: int) -> list[tuple[list[int], list[int]]]:
        """Return about `recipe.tokens` tokens of rows, each with its labels."""
        random = Random(f"{self.recipe.seed} {step}")
        done = step / self.recipe.steps
        chats = done >= self.recipe.chats_from and random.random() < 0.6
        rows: list[tuple[list[int], list[int]]] = []
        while sum(len(row) for row, _ in rows) < self.recipe.tokens:
            if chats:
                rows.append(self._chat(self.asker.chat(random, 24), random.randint(CONTEXT // 8, CONTEXT)))
            else:
                cut = done < self.recipe.uncut_from and random.random() < 0.9
                rows.append(self._chat([self.asker.ask(random)], CONTEXT, cut=random.randint(4, 14) if cut else None))
        return rows

    def batches(self, step: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Return the rows of a step as batches of rows of about the same length, padded at their right."""
        rows = sorted(self.rows(step), key=lambda row: len(row[0]))
        size = max(1, math.ceil(len(rows) / 4))
        for first in range(0, len(rows), size):
            some = rows[first : first + size]
            longest = max(len(row) for row, _ in some)
            pad = self._ids(END)[0]
            yield (
                torch.tensor([row + [pad] * (longest - len(row)) for row, _ in some]),
                torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in some]),
            )

    def _chat(self, exchanges: list[Exchange], most: int, cut: int | None = None) -> tuple[list[int], list[int]]:
        row: list[int] = []
        labels: list[int] = []
        for exchange in exchanges:
            asked = self._ids(f"{USER}{exchange.question.strip().lower()}{END}{GUIDE}")
            answer = self._ids(f"{exchange.answer}{END}")[:cut]
            if row and len(row) + len(asked) + len(answer) > most:
                break
            row += asked + answer
            labels += [IGNORED] * len(asked) + answer
        return row[:CONTEXT], labels[:CONTEXT]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def loss_of(model: LlamaForCausalLM, row: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the summed loss of the answers' tokens; padding stands at the right, where nothing looks at it."""
    hidden = model.model(row).last_hidden_state[:, :-1]
    learned = labels[:, 1:] != IGNORED
    logits = model.lm_head(hidden[learned])
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:][learned], reduction="sum")


def rate_at(step: int, recipe: Recipe) -> float:
    """Return the learning rate: up to `rate` in a straight line, then down to a hundredth along half a cosine."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def train(
    folder: Path, recipe: Recipe, texts: Texts | None = None, *, every: int = 250, until: int | None = None
) -> LlamaForCausalLM:
    """Train to the last step, or to `until`, from the last checkpoint in `folder`, and leave one there.

    Raises:
        ValueError: the folder holds a training by another recipe, or of other texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asker = Asker(texts or read_texts())
    tokenizer = train_tokenizer(asker, recipe)
    what = asdict(recipe) | {"tokenizer": tokenizer.to_str(), "texts": _digest(asker.texts)}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = new_model(recipe, tokenizer).to(device)
    optimizer = torch.optim.AdamW(_groups(model, recipe), betas=(0.9, 0.98), fused=True)
    first = _resume(folder / "checkpoint.pt", model, optimizer, what)
    tokenizer.save(str(folder / "tokenizer.json"))
    reader, last, begun = Reader(asker, tokenizer, recipe), until or recipe.steps, time.monotonic()
    for step in range(first, last):
        loss = _step(model, optimizer, reader, step, device)
        if (step + 1) % every == 0 or step + 1 == last:
            _keep(folder / "checkpoint.pt", model, optimizer, what, step + 1)
            left = (time.monotonic() - begun) / (step + 1 - first) * (last - step - 1)
            print(f"step {step + 1:,} of {recipe.steps:,}, loss {loss:.4f}, {left / 60:.0f} minutes left", flush=True)
    return model


def _step(model: LlamaForCausalLM, optimizer: Any, reader: Reader, step: int, device: str) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate_at(step, reader.recipe)
    batches = [(row.to(device), labels.to(device)) for row, labels in reader.batches(step)]
    learned = sum(int((labels != IGNORED).sum()) for _, labels in batches)
    total = 0.0
    for row, labels in batches:
        loss = loss_of(model, row, labels) / learned
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def _groups(model: LlamaForCausalLM, recipe: Recipe) -> list[dict[str, Any]]:
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    norms = [weight for weight in model.parameters() if weight.dim() == 1]
    return [{"params": matrices, "weight_decay": recipe.decay}, {"params": norms, "weight_decay": 0.0}]


def _digest(texts: Texts) -> str:
    return hashlib.sha256(repr((texts, BEFORE, AFTER, FRAMES, SAME, sorted(SMALL))).encode()).hexdigest()


def _resume(path: Path, model: LlamaForCausalLM, optimizer: Any, what: dict[str, Any]) -> int:
    if not path.exists():
        return 0
    kept = torch.load(path, weights_only=True, map_location="cpu")
    if kept["what"] != what:
        raise ValueError(f"{path} is of another recipe or of other texts; delete it to begin anew")
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    return int(kept["step"])


def _keep(path: Path, model: LlamaForCausalLM, optimizer: Any, what: dict[str, Any], step: int) -> None:
    kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "what": what, "step": step}
    torch.save(kept, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)  # an interruption leaves the old one whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER / "training", help="checkpoint and tokenizer")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all)")
    parser.add_argument("--quick", action="store_true", help="a few steps of a far smaller model, to try the way")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    begun = time.monotonic()
    try:
        model = train(flags.out, QUICK if flags.quick else Recipe())
    except ValueError as error:
        parser.error(str(error))
    print(f"{model.num_parameters():,} parameters, {(time.monotonic() - begun) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
