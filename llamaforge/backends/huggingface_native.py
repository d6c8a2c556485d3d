"""What the Hugging Face backend needs of torch and transformers, which are imported when a model is loaded."""

from __future__ import annotations

import copy
import importlib.util
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..chat_template import Segment
from ..errors import BackendMissing, GenerationError, ModelError, ModelFileError
from ..packages import LEAST, outdated
from ..text_stream import StopMatcher
from ..types import Token

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGES = ("torch", "transformers", "safetensors")


def require_packages(parameters: Mapping[str, Any]) -> None:
    """Raise BackendMissing, with what to install, where a package is missing or too old."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise BackendMissing(
                f"Hugging Face models need the package {package}, which is not installed. Install it and start "
                'again: pip install ".[huggingface]"'
            )
        if package in LEAST and (sentence := outdated(package)):
            raise BackendMissing(sentence)
    if parameters.get("quantization") and importlib.util.find_spec("bitsandbytes") is None:
        raise BackendMissing(
            f"quantization: {parameters['quantization']} needs the package bitsandbytes, which is not installed. "
            "Install it, or leave quantization unset: pip install bitsandbytes"
        )
    if parameters.get("attn_implementation") == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise BackendMissing(
            "attn_implementation: flash_attention_2 needs the package flash-attn, which is not installed. "
            "Set it to sdpa, or install the package: pip install flash-attn --no-build-isolation"
        )


def device_of(asked: str | None) -> str:
    """Return the torch device for "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        ModelError: this machine, or this build of torch, has no such device.
    """
    import torch

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    if asked in (None, "auto"):
        return "cuda" if cards else "mps" if has_mps else "cpu"
    kind, _, number = str(asked).partition(":")
    if kind == "cuda" and not cards:
        raise ModelError("device: cuda, but torch finds no CUDA GPU here. Set device to auto or cpu.")
    if kind == "cuda" and number and int(number) >= cards:
        raise ModelError(f"device: {asked}, but there are only {cards} GPUs, from cuda:0. Set device to auto.")
    if kind == "mps" and not has_mps:
        raise ModelError("device: mps, but torch finds no Apple GPU here. Set device to auto or cpu.")
    return str(asked)


def quiet() -> None:
    """Keep transformers' progress bars and advice for programmers out of the terminal."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_error(name: str, error: Exception) -> ModelError:
    """Return what went wrong in from_pretrained as a sentence; the engine's own words are the details."""
    text = f"{type(error).__name__}: {error}"
    if "out of memory" in text.lower():
        return ModelError(
            f"There is not enough GPU memory for {name}. Set device to cpu, or choose a smaller model.", details=text
        )
    if "trust_remote_code" in text:
        return remote_code_error(name)
    if "not recognize this architecture" in text or "does not appear to have" in text:
        return ModelFileError(f"{name} is of a type that this transformers does not know. Update it.", details=text)
    if "Unrecognized configuration class" in text:
        return ModelFileError(f"{name} is not a chat model: it cannot continue a text.", details=text)
    if isinstance(error, ImportError):
        return ModelError(f"{name} needs a package that is not installed: {str(error).splitlines()[0]}", details=text)
    return ModelFileError(f"transformers cannot load {name}: it is damaged or incomplete.", details=text)


def remote_code_error(name: str) -> ModelError:
    return ModelError(
        f"{name} wants to run its own Python code. If you trust its author, set trust_remote_code: true in the "
        "model's file and start the page with --allow-remote-code."
    )


class Tokenizer:
    """A model's tokenizer: text to ids, with literal segments, and ids to text, piece by piece."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    @property
    def template(self) -> str | None:
        found = self._tokenizer.chat_template
        return found.get("default") if isinstance(found, dict) else found

    @property
    def control_tokens(self) -> list[str]:
        added = self._tokenizer.added_tokens_decoder.values()
        return [str(token) for token in added if token.special] + list(self._tokenizer.all_special_tokens)

    def text_of(self, name: str) -> str:
        """Return the text of "bos_token" or "eos_token", empty where the model has none."""
        return str(getattr(self._tokenizer, name) or "")

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        ids: list[int] = []
        for segment in segments:
            found = self._tokenizer(segment.text, add_special_tokens=False, split_special_tokens=segment.literal)
            ids += found["input_ids"]
        return ids

    def encode_raw(self, text: str) -> list[int]:
        return list(self._tokenizer(text)["input_ids"])

    def spelled(self, tokens: list[int]) -> str:
        """Return the text of tokens, special ones too."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False))

    def named(self, tokens: list[int]) -> tuple[Token, ...]:
        """Return tokens with the spelling of the vocabulary, which leaves nothing out."""
        spelled = self._tokenizer.convert_ids_to_tokens(tokens)
        return tuple(Token(token, str(text)) for token, text in zip(tokens, spelled, strict=True))

    def copy(self) -> Tokenizer:
        return Tokenizer(copy.deepcopy(self._tokenizer))

    def decoder(self, stop: Sequence[str]) -> Decoder:
        return Decoder(self._tokenizer, stop)


class Decoder:
    """Turns token ids into text one at a time, at the same cost however long the answer is."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._matcher = StopMatcher(stop)
        self._step = _fast_step(tokenizer) if tokenizer.is_fast else _slow_step(tokenizer)
        self._told: list[int] = []  # the tokens of the last text, which tell what those after it add
        self._held: list[int] = []  # tokens since then: half a character
        self.count = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop text has been seen."""
        return self._matcher.matched

    @property
    def whole(self) -> bool:
        """Whether the text of all tokens so far has been told."""
        return not self._matcher.holds and not self.stopped and not self._held

    def feed(self, token: int) -> str:
        self.count += 1
        self._held.append(token)
        text = self._step(token)
        if text:
            self._told, self._held = self._held, []
        return self._matcher.feed(text)

    def flush(self) -> str:
        if self.stopped:
            return ""
        before, whole = (
            self._tokenizer.decode(ids, skip_special_tokens=True) for ids in (self._told, self._told + self._held)
        )
        return self._matcher.feed(whole[len(before) :]) + self._matcher.flush()


def _fast_step(tokenizer: Any) -> Callable[[int], str]:
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=True)
    return lambda token: stream.step(tokenizer._tokenizer, token) or ""


def _slow_step(tokenizer: Any) -> Callable[[int], str]:
    """Decode with the few tokens before, whose text tells what a new one adds; half a character waits for its rest."""
    known: list[int] = []
    new: list[int] = []

    def step(token: int) -> str:
        new.append(token)
        before = tokenizer.decode(known, skip_special_tokens=True)
        text = tokenizer.decode(known + new, skip_special_tokens=True)
        if text.endswith("\ufffd") and len(new) < 4:
            return ""
        known[:] = new
        new.clear()
        return str(text[len(before) :])

    return step


class Answer:
    """One call of transformers' generate() in a thread of its own; iterating gives the token ids as they come.

    What the thread raises is raised to who iterates.
    """

    def __init__(self, model: PreTrainedModel, stopped: threading.Event, **arguments: Any) -> None:
        self._tokens: queue.SimpleQueue[int | Exception | None] = queue.SimpleQueue()
        self._stopped = stopped
        self._prompt_is_next = True
        self._thread = threading.Thread(
            target=self._run, args=[model, arguments], name="llamaforge-answer", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[int]:
        try:
            while (token := self._tokens.get()) is not None:
                if isinstance(token, Exception):
                    raise token
                yield token
        finally:
            self._stopped.set()
            self._thread.join()

    def put(self, value: Any) -> None:
        """Take token ids from generate(), which begins with those of the prompt (the streamer's interface)."""
        if self._prompt_is_next:
            self._prompt_is_next = False
            return
        for token in value.flatten().tolist():
            self._tokens.put(token)

    def end(self) -> None:
        """Hear that generate() is done (the streamer's interface); its thread says so itself."""

    def _run(self, model: PreTrainedModel, arguments: dict[str, Any]) -> None:
        import torch

        def stopped(ids: Any, _scores: Any, **_more: Any) -> Any:
            return torch.full((ids.shape[0],), self._stopped.is_set(), device=ids.device)

        try:
            with torch.inference_mode():
                model.generate(streamer=self, stopping_criteria=[stopped], **arguments)
            self._tokens.put(None)
        # Whatever an engine raises is for the thread that iterates.
        except Exception as error:  # noqa: BLE001
            self._tokens.put(_answer_error(error))


def _answer_error(error: Exception) -> Exception:
    if "out of memory" in str(error).lower():
        return GenerationError("The GPU's memory ran out. Start a new chat, or load the model with device: cpu.")
    return error
