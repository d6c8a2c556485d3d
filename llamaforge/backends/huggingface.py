"""Hugging Face models through transformers: folders of safetensors, and repositories of the Hub.

torch and transformers are imported when a model is loaded, never before, and CUDA is not touched earlier.
"""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import hub
from ..chat_template import PLAIN, ChatTemplate, Segment, opens_thoughts
from ..errors import ContextOverflow, EmptyPrompt, LlamaForgeError, ModelError, NoVision
from ..memory import find_gpus, format_bytes, format_count, measure
from ..prompt_cache import capacity_of
from ..text_stream import THINK_OPEN
from ..token_memory import TokenMemory
from ..types import (
    Chunk,
    FinishReason,
    Image,
    LastTokens,
    LoadProgress,
    MemoryNeed,
    Message,
    ModelCard,
    Prompt,
    Strengths,
    Usage,
)
from .base import BaseBackend, plain_prompt
from .huggingface_context import Context
from .huggingface_folder import HFFolder, card_before_download, fetched_folder, local_folder, read_folder
from .huggingface_native import (
    Answer,
    Decoder,
    Tokenizer,
    device_of,
    load_error,
    quiet,
    remote_code_error,
    require_packages,
)
from .huggingface_parameters import HuggingFaceParameters
from .huggingface_vision import Sight, forget_positions, may_see, on_device, opened_sight
from .parameters import ENGINE_DEFAULT

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PIECE = 512  # prompt tokens evaluated at a time; Stop is heard between
USUAL_WINDOW = 8192  # what memory is estimated for: the cache grows with the chat
# Our names of what generate() and generation_config.json know, and what transformers does without either.
NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
}
USUAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": 0.0, "repeat_penalty": 1.0}
ELEMENT = {"float32": 4, "float16": 2, "bfloat16": 2}


class HuggingFaceBackend(BaseBackend):
    """Runs one causal language model."""

    Parameters = HuggingFaceParameters
    about = "Models of the Hugging Face Hub as they were published: the most to choose from, best on a GPU, private."
    strengths = Strengths(
        performance="best on a GPU; slow and large on a CPU",
        flexibility="most architectures, on the day they appear",
        quality="the weights as published, or in 8 or 4 bits",
        cost="your electricity; a GPU with much memory",
        privacy="stays on this computer",
    )
    keeps_to_seed = True
    reads_beside = True
    path_label = "Folder or repository"
    path_help = "A folder with config.json and .safetensors files; or owner/name on the Hugging Face Hub."
    path_example = "/home/you/models/Llama-3.2-1B-Instruct"
    ignored = {
        "presence_penalty": "transformers has no such penalty; use repeat_penalty.",
        "frequency_penalty": "transformers has no such penalty; use repeat_penalty.",
    }

    def __init__(self) -> None:
        self._model: PreTrainedModel | None = None
        self._context: Context | None = None
        self._tokenizer: Tokenizer | None = None
        self._sight: Sight | None = None
        self._reader: Tokenizer | None = None
        self._memory = TokenMemory()
        self._reading = threading.Lock()
        self._folder: HFFolder | None = None
        self._template: ChatTemplate | None = None
        self._device = ""
        self._warnings: tuple[str, ...] = ()
        self._stopped = threading.Event()
        self._load_progress: LoadProgress | None = None

    def check(self, path: str, parameters: Mapping[str, Any]) -> None:
        require_packages(parameters)
        found = local_folder(path, parameters)
        if found is None:
            hub.require_package()
            return
        folder = read_folder(found)
        if folder.wants_own_code and not parameters.get("trust_remote_code") and not _known_type(folder):
            raise remote_code_error(folder.path.name)

    def describe(self, path: str) -> ModelCard:
        found = local_folder(path, {})
        if found is None:
            return card_before_download(path)
        folder = read_folder(found)
        window = folder.context_window
        facts = {
            "Name": path if hub.parse(path) else folder.path.name,
            "Architecture": folder.architecture,
            "Parameters": format_count(folder.parameters),
            "Weights": ", ".join(folder.dtypes),
            "Files": format_bytes(folder.file_size),
            "Layers": str(folder.n_layers),
            "Trained context": f"{window:,} tokens" if window else "not told",
            "Chat template": "its own" if folder.has_template else "none: plain “user:” and “assistant:” lines",
        }
        if folder.has_eyes:
            facts["Pictures"] = "yes"
        limits = {"max_tokens": window} if window else {}
        defaults, origins = _defaults(folder.generation), _origins(folder.generation)
        return ModelCard(facts=facts, limits=limits, defaults=defaults, origins=origins)

    def memory_needed(self, path: str, parameters: Mapping[str, Any]) -> MemoryNeed | None:
        found = local_folder(path, parameters)
        if found is None:
            return None
        folder = read_folder(found)
        element = ELEMENT.get(str(parameters.get("torch_dtype")), 0)
        weights = folder.parameters * element if element else folder.file_size
        shrunk = {"4bit": 4, "8bit": 2}.get(str(parameters.get("quantization")), 1)
        window = min(folder.context_window or USUAL_WINDOW, USUAL_WINDOW)
        return MemoryNeed(weights=weights // shrunk, kv_cache=folder.kv_cache_bytes(window, element or 2))

    def load_model(self, model_path: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.unload_model()
        self._stopped.clear()
        settings = dict(parameters or {})
        try:
            path = fetched_folder(model_path, settings, self._fetched_so_far)
        finally:
            self._load_progress = None
        self.check(str(path), settings)
        folder = read_folder(path)
        device = device_of(settings.get("device"))
        need = self.memory_needed(str(path), settings)
        capacity = capacity_of(settings.get("prompt_cache_mb"), need, measure(find_gpus()))
        self._tokenizer, self._model, self._sight, self._warnings = _open(folder, device, settings)
        self._context = Context(self._model, capacity)
        self.sees_images = self._sight is not None
        self._folder, self._device = folder, str(self._model.device)
        self.context_window = folder.context_window

    def load_progress(self) -> LoadProgress | None:
        return self._load_progress

    def secrets(self, path: str) -> Sequence[str]:
        return ("HF_TOKEN",) if hub.parse(path) is not None else ()

    def _fetched_so_far(self, done: int, total: int) -> None:
        self._load_progress = LoadProgress(done / total if total else None, "downloading")
        if self._stopped.is_set():
            raise ModelError("Loading was given up.")

    def is_model_loaded(self) -> bool:
        return self._model is not None

    def unload_model(self) -> None:
        model, self._model = self._model, None
        with self._reading:
            self._tokenizer = self._reader = self._sight = self._template = self._context = None
        self._memory = TokenMemory()
        self._warnings, self.sees_images = (), False
        if model is not None:
            import torch

            del model
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def stop(self) -> None:
        self._stopped.set()

    def count_tokens(self, text: str) -> int:
        with self._reading:
            return len(self._beside().encode([Segment(text, literal=True)]))

    def render(self, messages: Sequence[Message]) -> Prompt:
        with self._reading:
            reader = self._beside()
            template = self._chat_template()
            if template is None:
                tokens = self._raw_tokens(plain_prompt(messages), reader)
                return Prompt(reader.spelled(tokens), len(tokens))
            segments = template.render(messages)
            images = _images(messages)
            if images and self._sight is not None:
                tokens, _ = self._sight.inputs(segments, images)
            else:
                tokens = self._memory.tokens_of(segments, reader.encode, reader.encode)
            return Prompt("".join("<picture>" if one.image else one.text for one in segments), len(tokens))

    def last_tokens(self) -> LastTokens:
        with self._reading:
            return LastTokens(*(self._beside().named(tokens) for tokens in self._memory.last))

    def _beside(self) -> Tokenizer:
        """Return a tokenizer that no running answer uses: to encode changes it for a moment."""
        if self._reader is None:
            self._reader = self._tokens_of().copy()
        return self._reader

    def summary(self) -> Sequence[str]:
        if self._folder is None:
            return ()
        place = "on CPU" if self._device == "cpu" else f"on {self._device}"
        window = f"{self.context_window:,} tokens" if self.context_window else "no known limit"
        return (format_bytes(self._folder.file_size), place, window)

    def warnings(self) -> Sequence[str]:
        return self._warnings

    def chat_stream(
        self, messages: Sequence[Message], parameters: Mapping[str, Any] | None = None
    ) -> Iterator[str | Chunk]:
        settings = dict(parameters or {})
        images = _images(messages)
        if images and self._sight is None:
            raise NoVision
        template = self._chat_template()
        if template is None:
            settings["stop"] = [*settings.get("stop", []), "\nuser:"]
            text = plain_prompt(messages)
            tokens = self._raw_tokens(text, self._tokens_of())
            yield from self._stream([Segment(text, literal=False)], tokens, settings, messages)
            return
        segments = template.render(messages)
        if opens_thoughts(messages, segments):
            yield THINK_OPEN  # the template has opened the thoughts already, so the answer will not
        if images and self._sight is not None:
            with self._reading:
                prompt, seen = self._sight.inputs(segments, images)
            yield from self._stream(segments, prompt, settings, messages, seen)
            return
        encode = self._tokens_of().encode
        yield from self._stream(segments, self._memory.tokens_of(segments, encode, encode), settings, messages)

    def generate_stream(self, prompt: str, parameters: Mapping[str, Any] | None = None) -> Iterator[str | Chunk]:
        tokens = self._raw_tokens(prompt, self._tokens_of())
        return self._stream([Segment(prompt, literal=False)], tokens, parameters or {}, [Message("user", prompt)])

    def _raw_tokens(self, prompt: str, reader: Tokenizer) -> list[int]:
        segments = [Segment(prompt, literal=False)]
        return self._memory.tokens_of(segments, lambda _: reader.encode_raw(prompt), reader.encode)

    def _stream(
        self,
        segments: Sequence[Segment],
        prompt: list[int],
        parameters: Mapping[str, Any],
        chat: Sequence[Message],
        seen: Mapping[str, Any] | None = None,
    ) -> Iterator[str | Chunk]:
        """Yield what continues a prompt; `seen` is what the model is given of its pictures."""
        context = self._context
        assert context is not None
        self._stopped.clear()
        yield Chunk()  # whoever stops this answer is heard from here on
        if not prompt:
            raise EmptyPrompt("Write a message first.")
        window = self.context_window
        if window and len(prompt) >= window:
            raise ContextOverflow(len(prompt), window)
        decoder = self._tokens_of().decoder(parameters.get("stop") or ())
        cached = context.reuse(prompt if not seen else [], chat)  # two pictures are the same tokens
        self._memory.begin(segments if not seen else [], prompt)
        tokens: list[int] = []
        finish: FinishReason = "cancelled"
        try:
            if not seen:
                yield from self._evaluate(prompt, cached, context.cache)
            if not self._stopped.is_set():
                beside = {"past_key_values": context.cache} if context.cache is not None else {}
                beside |= on_device(seen or {}, self._loaded())
                finish = yield from self._generate(prompt, tokens, decoder, parameters, beside)
        except Exception:
            context.forget()
            raise
        finally:
            context.remember([*prompt, *tokens])
            if seen:
                context.forget()
                forget_positions(self._loaded())
        if finish != "cancelled" and (text := decoder.flush()):
            yield text
        yield Chunk(finish_reason=finish, usage=Usage(len(prompt), decoder.count, cached))

    def _evaluate(self, prompt: list[int], cached: int, cache: Any) -> Iterator[Chunk]:
        """Evaluate all of the prompt but its last token, in pieces; a model without a common cache does it later."""
        import torch

        if cache is None:
            return
        model = self._loaded()
        for start in range(cached, len(prompt) - 1, PIECE):
            if self._stopped.is_set():
                return
            piece = torch.tensor([prompt[start : min(start + PIECE, len(prompt) - 1)]], device=model.device)
            with torch.inference_mode():
                model.base_model(input_ids=piece, past_key_values=cache, use_cache=True)
            yield Chunk(progress=min(1.0, (start + PIECE) / len(prompt)))

    def _generate(
        self,
        prompt: list[int],
        tokens: list[int],
        decoder: Decoder,
        parameters: Mapping[str, Any],
        beside: Mapping[str, Any],
    ) -> Generator[str, None, FinishReason]:
        """Yield the answer's text and note its tokens; return why it ended.

        Args:
            beside: what the model is given beside tokens and sampling: its cache, and its pictures.
        """
        import torch

        model = self._loaded()
        budget = _budget(parameters.get("max_tokens"), self.context_window, len(prompt))
        seed = parameters.get("seed")
        torch.seed() if seed is None else torch.manual_seed(seed)
        ids = torch.tensor([prompt], device=model.device)
        answer = Answer(
            model,
            self._stopped,
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=budget,
            **_sampling(parameters),
            **beside,
        )
        ends = self._end_tokens()
        for token in answer:
            tokens.append(token)
            if token in ends:
                return "stop"
            if self._stopped.is_set():
                return "cancelled"
            text = decoder.feed(token)
            self._memory.add(token, text, whole=decoder.whole)
            if text:
                yield text
            if decoder.stopped:
                return "stop"
        return "length" if len(tokens) >= budget else "cancelled"

    def _end_tokens(self) -> set[int]:
        found = getattr(self._loaded().generation_config, "eos_token_id", None)
        return set(found) if isinstance(found, list) else set() if found is None else {found}

    def _chat_template(self) -> ChatTemplate | None:
        tokenizer, sight = self._tokens_of(), self._sight
        source = (sight.template if sight is not None else None) or tokenizer.template
        source = source or (PLAIN if sight is not None else None)
        if self._template is None and source:
            picture = [sight.picture] if sight is not None else []
            self._template = ChatTemplate(
                source,
                bos_token=tokenizer.text_of("bos_token"),
                eos_token=tokenizer.text_of("eos_token"),
                control_tokens=[*tokenizer.control_tokens, *picture],
                picture="".join(picture),
            )
        return self._template

    def _loaded(self) -> PreTrainedModel:
        if self._model is None:
            raise ModelError("No model is loaded in this backend. Call load_model first.")
        return self._model

    def _tokens_of(self) -> Tokenizer:
        if self._tokenizer is None:
            raise ModelError("No model is loaded in this backend. Call load_model first.")
        return self._tokenizer


def _images(messages: Sequence[Message]) -> list[Image]:
    return [image for message in messages for image in message.images]


def _open(
    folder: HFFolder, device: str, settings: Mapping[str, Any]
) -> tuple[Tokenizer, PreTrainedModel, Sight | None, tuple[str, ...]]:
    import transformers

    quiet()
    trusted = {"trust_remote_code": bool(settings.get("trust_remote_code")), "local_files_only": True}
    placed = {"device_map": settings["device_map"]} if settings.get("device_map") else {}
    if attention := settings.get("attn_implementation"):
        placed["attn_implementation"] = attention
    if bits := settings.get("quantization"):
        placed["quantization_config"] = transformers.BitsAndBytesConfig(**{f"load_in_{bits}": True})
        placed.setdefault("device_map", device)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder.path, **trusted)
        sight, warnings = opened_sight(folder)
        kind = transformers.AutoModelForImageTextToText if may_see(folder) else transformers.AutoModelForCausalLM
        model = kind.from_pretrained(
            folder.path, dtype=settings.get("torch_dtype") or "auto", use_safetensors=True, **trusted, **placed
        )
        placed_model = model.eval() if "device_map" in placed else model.to(device).eval()
        return Tokenizer(tokenizer), placed_model, sight, warnings
    except LlamaForgeError:
        raise
    # A folder of a stranger's, and with trust_remote_code their code, may raise anything.
    except Exception as error:
        raise load_error(folder.path.name, error) from error


def _known_type(folder: HFFolder) -> bool:
    """Tell whether transformers itself knows this type of model, so that it needs no code of the folder's."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return folder.config.get("model_type") in CONFIG_MAPPING_NAMES


def _budget(max_tokens: int | None, window: int | None, prompt: int) -> int:
    left = window - prompt if window else USUAL_WINDOW
    return min(max_tokens or left, left) if window else max_tokens or left


def _sampling(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what generate() is given; what is unset is left to the model's generation_config.json."""
    chosen = {theirs: parameters[ours] for ours, theirs in NAMES.items() if parameters.get(ours) is not None}
    temperature = chosen.pop("temperature", None)
    if temperature is None:
        return chosen
    return chosen | ({"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False})


def _defaults(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of unset parameters: those of generation_config.json, else of transformers."""
    greedy = {} if generation.get("do_sample") else {"temperature": 0.0}
    return USUAL | _published(generation) | greedy


def _origins(generation: Mapping[str, Any]) -> dict[str, str]:
    """Return where these values come from; a model that does not sample has its temperature from that."""
    told = {*_published(generation)} - {"temperature"}
    if "do_sample" in generation and (not generation["do_sample"] or generation.get("temperature") is not None):
        told.add("temperature")
    return {name: "generation_config.json" if name in told else ENGINE_DEFAULT for name in USUAL}


def _published(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return what generation_config.json says of sampling, by LlamaForge's names; it may say anything."""
    said = {ours: generation.get(theirs) for ours, theirs in NAMES.items()}
    numbers = {name: value for name, value in said.items() if isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
