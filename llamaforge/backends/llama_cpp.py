"""GGUF files through llama.cpp, by llama-cpp-python.

Tokens come from `Llama.generate` and are turned into text here: the high-level streaming call of llama-cpp-python
detokenises the whole answer at every token, loses tokens longer than 32 bytes, and stalls at the first invalid
byte. llama_cpp is imported when a model is loaded, never before.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import os
import secrets
import threading
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..chat_template import PLAIN, ChatTemplate, Segment, opens_thoughts
from ..errors import (
    BackendMissing,
    ContextOverflow,
    EmptyPrompt,
    GenerationError,
    LlamaForgeError,
    ModelError,
    NoVision,
    ParameterError,
)
from ..gguf_file import GGUFHeader, require_chat_model
from ..hub import parse, require_package
from ..memory import find_gpus, format_bytes, format_count, measure, verdict
from ..packages import outdated
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
    Token,
    Usage,
)
from .base import BaseBackend, plain_prompt
from .llama_cpp_context import Context
from .llama_cpp_files import card_before_download, fetched_file, header_of, local_file, require_sha256
from .llama_cpp_fit import (
    DEFAULT_N_CTX,
    cache_types,
    context_window,
    default_threads,
    gpu_layers,
    llama_arguments,
    memory_need,
    require_cache_types,
)
from .llama_cpp_native import (
    Decoder,
    abort_when_set,
    control_tokens,
    engine_log,
    gpu_advice,
    import_llama_cpp,
    llama_class,
    load_error,
    missing,
    require_loadable,
    supports_gpu,
    token_text,
)
from .llama_cpp_parameters import LlamaCppParameters
from .llama_cpp_vision import Projector, fetched_projector, projector_of, require_projector, size_of
from .parameters import ENGINE_DEFAULT, validate

if TYPE_CHECKING:
    from llama_cpp import Llama


class LlamaCppBackend(BaseBackend):
    """Runs one GGUF file, of this disk or of the Hugging Face Hub."""

    Parameters = LlamaCppParameters
    file_keys = ("file", "sha256")
    keeps_to_seed = True
    reads_beside = True  # llama.h: the API of tokenization is thread-safe
    about = "GGUF files on this computer: the fastest on a CPU, small by quantisation, private, at no cost."
    strengths = Strengths(
        performance="the fastest on a CPU; GPU by a build flag",
        flexibility="GGUF files; runs nearly anywhere",
        quality="quantisation costs a little, below 4 bits more",
        cost="your electricity; little memory",
        privacy="stays on this computer",
    )
    path_help = "The file on this computer, which stays where it is; or owner/name on the Hugging Face Hub."
    path_example = "/home/you/models/llama-3-8b-q4_k_m.gguf"

    def __init__(self) -> None:
        self._llama: Llama | None = None
        self._context: Context | None = None
        self._header: GGUFHeader | None = None
        self._template: ChatTemplate | None = None
        self._projector: Projector | None = None
        self._blind = ""  # why a projector beside the model does not serve, for people
        self._gpu_layers = 0
        self._abort = ctypes.create_string_buffer(2)  # a non-zero first byte stops a load and even a long prompt
        self._load_progress: LoadProgress | None = None
        self._memory = TokenMemory()
        self._reading = threading.Lock()  # to tokenize what is being closed would end the process

    def check(self, path: str, parameters: Mapping[str, Any]) -> None:
        if importlib.util.find_spec("llama_cpp") is None:
            raise missing()
        if sentence := outdated("llama-cpp-python"):
            raise BackendMissing(sentence)
        cache_types(parameters)
        file = local_file(path)
        if file is None:
            require_package()
            return
        header = header_of(file)
        require_chat_model(header)
        require_loadable(header)
        require_cache_types(header, parameters)
        projector = projector_of(file, parameters.get("mmproj"))
        if projector is not None and (projector.exists() or parse(path) is None):  # else it is fetched first
            require_projector(projector)

    def describe(self, path: str) -> ModelCard:
        file = local_file(path)
        if file is None:
            return card_before_download(path)
        header = header_of(file)
        card = {
            "Name": header.name or file.stem,
            "Architecture": header.architecture,
            "Parameters": format_count(header.parameters),
            "Quantisation": header.quantization,
            "File": format_bytes(header.file_size),
            "Layers": str(header.n_layers),
            "Trained context": f"{header.n_ctx_train:,} tokens",
            "Chat template": "its own" if header.chat_template else "none: plain “user:” and “assistant:” lines",
        }
        if projector := projector_of(file, None):
            card["Pictures"] = f"yes, with {projector.name}"
        return ModelCard(
            facts=card,
            limits={
                "n_gpu_layers": header.n_layers,
                "n_ctx": header.n_ctx_train,
                **dict.fromkeys(("n_threads", "n_threads_batch"), os.cpu_count() or 1),
            },
            defaults=_defaults(header),
            origins=_origins(header),
        )

    def memory_needed(self, path: str, parameters: Mapping[str, Any]) -> MemoryNeed | None:
        file = local_file(path)
        if file is None:
            return None
        header = header_of(file)
        need = memory_need(header, context_window(header, parameters), parameters)
        projector = projector_of(file, parameters.get("mmproj"))
        return replace(need, weights=need.weights + size_of(projector)) if projector is not None else need

    def secrets(self, path: str) -> Sequence[str]:
        return ("HF_TOKEN",) if parse(path) is not None else ()

    def load_model(self, model_path: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.unload_model()
        self._abort.value = b""
        settings = dict(parameters or {})
        path = self._fetch(model_path, settings.pop("sha256", None))
        header = header_of(path)
        require_chat_model(header)
        require_loadable(header)
        require_cache_types(header, settings)
        import_llama_cpp()
        log = engine_log().lines
        log.clear()
        window = context_window(header, settings)
        layers = gpu_layers(header, settings, window)
        need = memory_need(header, window, settings)
        capacity = capacity_of(settings.get("prompt_cache_mb"), need, measure(find_gpus()))
        if parse(model_path) is not None:  # nobody could tell before it was here
            verdict(need, measure(find_gpus()), hint="Choose a smaller model.")
        try:
            self._llama = llama_class(self._loaded_so_far)(**llama_arguments(path, layers, window, settings))
        except (ValueError, RuntimeError, OSError) as error:
            traceback.clear_frames(error.__traceback__)  # they hold what was loaded before it failed
            if self._abort.value:
                raise ModelError("Loading was given up.") from error
            raise load_error(path, log, error) from error
        finally:
            self._load_progress = None
        self._context = Context(self._llama, capacity)
        self._header = header
        self._gpu_layers = layers
        self.context_window = min(window, self._llama.n_ctx())
        abort_when_set(self._llama, self._abort)
        self._load_projector(model_path, path, settings.get("mmproj"))

    def _load_projector(self, model_path: str, path: Path, stated: str | None) -> None:
        """Let the model see, where it has a projector."""
        try:
            if file := fetched_projector(model_path, path, stated, self._fetched_so_far):
                require_projector(file)
                gpu = bool(self._gpu_layers)
                self._projector = Projector(file, self._loaded(), use_gpu=gpu, stopped=self._told_to_stop)
        except LlamaForgeError as error:
            if stated or self._abort.value:
                self.unload_model()
                raise
            self._blind = f"{error} It answers without pictures."  # nobody asked for that projector
        finally:
            self._load_progress = None
        self.sees_images = self._projector is not None

    def _told_to_stop(self) -> bool:
        return bool(self._abort.value)

    def _fetch(self, model_path: str, sha256: str | None) -> Path:
        """Return the model's file on this disk, fetched and compared with its checksum where that is asked for."""
        try:
            file = fetched_file(model_path, self._fetched_so_far)
            if sha256:
                require_sha256(file, sha256, lambda: self._waiting(LoadProgress(doing="checking")))
            return file
        finally:
            self._load_progress = None

    def _fetched_so_far(self, done: int, total: int) -> None:
        self._waiting(LoadProgress(done / total if total else None, "downloading"))

    def _waiting(self, progress: LoadProgress) -> None:
        self._load_progress = progress
        if self._abort.value:
            raise ModelError("Loading was given up.")

    def load_progress(self) -> LoadProgress | None:
        return self._load_progress

    def _loaded_so_far(self, share: float) -> bool:
        """Note how far llama.cpp has come with a load; False gives it up."""
        self._load_progress = LoadProgress(share)
        return not self._abort.value

    def is_model_loaded(self) -> bool:
        return self._llama is not None

    def unload_model(self) -> None:
        with self._reading:
            llama, self._llama = self._llama, None
            self._template, self._context, self._memory = None, None, TokenMemory()
            if self._projector is not None:
                self._projector.close()
            self._projector, self._blind, self.sees_images = None, "", False
            if llama is not None:
                llama.close()
        if llama is not None:
            del llama
            gc.collect()  # llama-cpp-python's objects refer to each other

    def stop(self) -> None:
        self._abort.value = b"1"

    def count_tokens(self, text: str) -> int:
        with self._reading:
            return len(self._loaded().tokenize(text.encode("utf-8", "replace"), add_bos=False, special=False))

    def render(self, messages: Sequence[Message]) -> Prompt:
        with self._reading:
            segments = self._segments(messages)
            tokens = self._memory.tokens_of(segments, self._tokenize, self._tokenize_rest)
            text = "".join("<picture>" if segment.image else segment.text for segment in segments)
            bos = token_text(self._loaded(), self._loaded().token_bos())
            added = bool(tokens) and tokens[0] == self._loaded().token_bos() and not text.startswith(bos)
            return Prompt(f"{bos if added else ''}{text}", len(tokens))

    def last_tokens(self) -> LastTokens:
        with self._reading:
            llama, (prompt, answer) = self._loaded(), self._memory.last
            named = [tuple(Token(token, token_text(llama, token)) for token in tokens) for tokens in (prompt, answer)]
            return LastTokens(*named)

    def summary(self) -> Sequence[str]:
        if self._header is None:
            return ()
        layers = self._header.n_layers
        place = f"{min(self._gpu_layers, layers)} of {layers} layers on GPU" if self._gpu_layers else "on CPU"
        return (format_bytes(self._header.file_size), place, f"{self.context_window or 0:,} tokens")

    def warnings(self) -> Sequence[str]:
        told = [self._blind] if self._blind else []
        if self._header is None or supports_gpu(import_llama_cpp()):
            return told
        gpus = find_gpus()
        return [*told, gpu_advice(gpus[0].name)] if gpus else told

    def chat_stream(
        self, messages: Sequence[Message], parameters: Mapping[str, Any] | None = None
    ) -> Iterator[str | Chunk]:
        settings = dict(parameters or {})
        segments = self._segments(messages)
        if self._chat_template() is None:
            settings["stop"] = [*settings.get("stop", []), "\nuser:"]
        elif opens_thoughts(messages, segments):
            yield THINK_OPEN  # the template has opened the thoughts already, so the answer will not
        yield from self._stream(segments, settings, messages)

    def generate_stream(self, prompt: str, parameters: Mapping[str, Any] | None = None) -> Iterator[str | Chunk]:
        return self._stream([Segment(prompt, literal=False)], parameters or {}, [Message("user", prompt)])

    def _stream(
        self, segments: Sequence[Segment], parameters: Mapping[str, Any], chat: Sequence[Message]
    ) -> Iterator[str | Chunk]:
        llama, context = self._loaded(), self._context
        assert context is not None
        self._abort.value = b""
        yield Chunk()  # whoever stops this answer is heard from here on
        prompt = self._memory.tokens_of(segments, self._tokenize, self._tokenize_rest)
        if not prompt:
            raise EmptyPrompt("Write a message first.")
        window = self.context_window or llama.n_ctx()
        if len(prompt) >= window:
            raise ContextOverflow(len(prompt), window)
        cached = 0
        finish: FinishReason = "cancelled"
        decoder = Decoder(llama, parameters.get("stop") or ())
        try:
            cached = context.reuse(prompt, chat)
            self._memory.begin(segments, prompt)
            yield from self._evaluate(prompt, cached, [segment.image for segment in segments if segment.image])
            if not self._abort.value:
                budget = min(parameters.get("max_tokens") or window, window - len(prompt))
                finish = yield from self._generate(
                    llama.input_ids[: llama.n_tokens].tolist(), budget, decoder, parameters
                )
        except RuntimeError as error:
            if not self._abort.value:  # an aborted llama_decode raises too
                raise GenerationError(f"The engine failed: {error}. Load the model again.") from error
        if finish != "cancelled" and (text := decoder.flush()):
            yield text
        yield Chunk(finish_reason=finish, usage=Usage(len(prompt), decoder.count, cached))

    def _evaluate(self, prompt: list[int], cached: int, images: Sequence[Image]) -> Iterator[Chunk]:
        """Evaluate the prompt in pieces of n_batch, so that Stop is heard between them on every device."""
        llama = self._loaded()
        if images and self._projector is not None:
            for done in self._projector.evaluate(prompt, cached, images):
                yield Chunk(progress=done / len(prompt))
            return
        for start in range(cached, len(prompt), llama.n_batch):
            if self._abort.value:
                return
            llama.eval(prompt[start : start + llama.n_batch])
            yield Chunk(progress=min(1.0, (start + llama.n_batch) / len(prompt)))

    def _generate(
        self, prompt: list[int], budget: int, decoder: Decoder, parameters: Mapping[str, Any]
    ) -> Generator[str, None, FinishReason]:
        """Yield the answer's text; return why it ended."""
        llama = self._loaded()
        seed = parameters.get("seed")
        llama.set_seed(secrets.randbelow(2**32 - 1) if seed is None else seed)
        for token in llama.generate(prompt, **self._sampling(parameters)):
            if self._abort.value:
                return "cancelled"
            if decoder.ends(token):
                return "stop"
            text = decoder.feed(token)
            self._memory.add(token, text, whole=decoder.whole)
            if text:
                yield text
            if decoder.stopped:
                return "stop"
            if decoder.count >= budget:
                return "length"
        return "stop"

    def _sampling(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `Llama.generate` is given; the file's own sampling defaults stand in for unset values."""
        names = ("top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
        chosen = {**(_recommended(self._header) if self._header else {}), **parameters}
        sampling = {name: chosen[name] for name in names if chosen.get(name) is not None}
        return sampling | {"temp": chosen["temperature"]} if chosen.get("temperature") is not None else sampling

    def _tokenize(self, segments: Sequence[Segment]) -> list[int]:
        llama = self._loaded()
        bos = token_text(llama, llama.token_bos())
        add_bos = not (bos and segments and segments[0].text.startswith(bos))
        first = self._tokens_of(segments[:1], add_bos=add_bos)
        return [*first, *self._tokenize_rest(segments[1:])]

    def _tokenize_rest(self, segments: Sequence[Segment]) -> list[int]:
        return self._tokens_of(segments, add_bos=False)

    def _tokens_of(self, segments: Sequence[Segment], *, add_bos: bool) -> list[int]:
        tokens: list[int] = []
        for segment in segments:
            if segment.image is not None and self._projector is None:
                raise NoVision
            if segment.image is not None and self._projector is not None:
                tokens += self._loaded().tokenize(b"", add_bos=True, special=False) if add_bos else []
                tokens += self._projector.tokens_of(segment.image)
                continue
            text = segment.text.encode("utf-8", "replace")
            tokens += self._loaded().tokenize(text, add_bos=add_bos, special=not segment.literal)
        return tokens

    def _segments(self, messages: Sequence[Message]) -> list[Segment]:
        """Return a chat as the prompt that it is sent as."""
        template = self._chat_template()
        if template is None and any(message.images for message in messages):
            template = ChatTemplate(PLAIN)
        return template.render(messages) if template else [Segment(plain_prompt(messages), literal=False)]

    def _chat_template(self) -> ChatTemplate | None:
        if self._template is None and self._header is not None and self._header.chat_template:
            llama = self._loaded()
            self._template = ChatTemplate(
                self._header.chat_template,
                bos_token=token_text(llama, llama.token_bos()),
                eos_token=token_text(llama, llama.token_eos()),
                control_tokens=control_tokens(llama),
            )
        return self._template

    def _loaded(self) -> Llama:
        if self._llama is None:
            raise ModelError("No model is loaded in this backend. Call load_model first.")
        return self._llama


def _defaults(header: GGUFHeader) -> dict[str, Any]:
    """Return the values of unset parameters: what the file recommends, else what is done here."""
    window = min(header.n_ctx_train, DEFAULT_N_CTX)
    return {**_recommended(header), "n_ctx": window, "n_gpu_layers": -1, "n_threads": default_threads()}


def _origins(header: GGUFHeader) -> dict[str, str]:
    """Return where these values come from, where it is not from the model as it was trained."""
    here = {"n_gpu_layers": ENGINE_DEFAULT, "n_threads": "the cores of this machine"}
    here |= {"n_ctx": ENGINE_DEFAULT} if header.n_ctx_train > DEFAULT_N_CTX else {}
    return here | dict.fromkeys(_recommended(header), "the sampling settings in its GGUF file")


def _recommended(header: GGUFHeader) -> dict[str, Any]:
    """Return the file's own sampling settings as far as they make sense: a file may claim anything."""
    found: dict[str, Any] = {}
    for name, value in header.sampling_defaults.items():
        with contextlib.suppress(ParameterError):
            found |= validate(LlamaCppParameters, {name: value})
    return found
