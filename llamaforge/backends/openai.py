"""Any OpenAI-compatible service: OpenAI, vLLM, llama-server, Ollama, LM Studio, OpenRouter and others.

A model's path is its name at the service. Nothing is asked of the service before the first message, so that a model
loads without a network. The openai package is imported when a model is loaded, never before.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from ..errors import ModelError, NoModelLoaded
from ..types import Chunk, Message, ModelCard, Prompt, Strengths
from .base import BaseBackend
from .openai_address import DEFAULT_ADDRESS, DEFAULT_PARALLEL, DEFAULT_TIMEOUT, Endpoint, endpoint_of, require_public
from .openai_request import EXTRA, messages_of
from .openai_service import Service, require_package
from .parameters import SamplingParameters, generate, load, shared

logger = logging.getLogger("llamaforge")

AS_IT_DECIDES = "Unset: as the service decides."
NOT_OPENAI = "No parameter of OpenAI's own service, which never gets it; others are sent it, and many honour it."
PLAIN_KEY = (
    "The key stands in the model's parameters in plain text. Put it into an environment variable "
    "and write api_key: ${OPENAI_API_KEY}"
)


class OpenAIParameters(SamplingParameters):
    """Parameters of OpenAI-compatible services; what is not set is not sent."""

    temperature: float | None = shared("temperature", AS_IT_DECIDES)
    max_tokens: int | None = generate(
        None, f"Longest answer in tokens. {AS_IT_DECIDES}", ge=1, le=1_048_576, advanced=False
    )
    top_p: float | None = shared("top_p", AS_IT_DECIDES)
    top_k: int | None = shared("top_k", NOT_OPENAI)
    min_p: float | None = shared("min_p", NOT_OPENAI)
    repeat_penalty: float | None = shared("repeat_penalty", NOT_OPENAI)
    seed: int | None = generate(
        None, "Same seed, same settings, same text, as far as the service can.", ge=0, le=4_294_967_294
    )
    api_key: str | None = load(
        None, "The key, as ${OPENAI_API_KEY}: the environment variable that holds it.", secret=True
    )
    api_base: str | None = load(
        DEFAULT_ADDRESS,
        "The service's address, which usually ends in /v1.",
        advanced=False,
        file_only=True,  # the key is meant for this address and no other
        max_length=2000,
    )
    organization: str | None = load(
        None, "OpenAI's id of your organization, if you have several.", file_only=True, max_length=200
    )
    timeout: float | None = load(
        DEFAULT_TIMEOUT, "Seconds to wait for the first piece of an answer.", ge=0.1, le=3600, step=1
    )
    images: bool | None = load(
        None, "Whether the model can see pictures. Unset: the service is asked with the first one."
    )
    parallel: int | None = load(DEFAULT_PARALLEL, "How many answers the service may write at once.", ge=1, le=16)
    ca_bundle: str | None = load(
        None, "A PEM file of certificates to trust as well, for a server of your own.", file_only=True, max_length=4000
    )


class Lane(BaseBackend):
    """One answer at a time by the service; several lanes share its client."""

    Parameters = OpenAIParameters

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stopped = threading.Event()
        self._running: Future[None] | None = None

    def is_model_loaded(self) -> bool:
        return True

    def stop(self) -> None:
        self._stopped.set()
        if self._running is not None:
            self._running.cancel()

    def generate_stream(self, prompt: str, parameters: Mapping[str, Any] | None = None) -> Iterator[str | Chunk]:
        return self.chat_stream([Message("user", prompt)], parameters)

    def chat_stream(
        self, messages: Sequence[Message], parameters: Mapping[str, Any] | None = None
    ) -> Iterator[str | Chunk]:
        self._stopped.clear()
        yield Chunk()
        chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        answer = self._service.submit(self._deliver(messages, dict(parameters or {}), chunks))
        answer.add_done_callback(lambda _: chunks.put(None))
        self._running = answer
        if self._stopped.is_set():  # between the empty chunk and here
            answer.cancel()
        try:
            yield from iter(chunks.get, None)
        finally:
            answer.cancel()
        if not answer.cancelled():
            answer.result()  # raises what ended it
        elif self._stopped.is_set():
            yield Chunk(finish_reason="cancelled")
        else:
            raise NoModelLoaded("The model was unloaded. Load one and send your message again.")

    async def _deliver(
        self, messages: Sequence[Message], settings: Mapping[str, Any], chunks: queue.SimpleQueue[Chunk | None]
    ) -> None:
        async with contextlib.aclosing(self._service.answer(messages, settings)) as answer:
            async for chunk in answer:
                chunks.put(chunk)


class OpenAIBackend(BaseBackend):
    """Answers by a model at an OpenAI-compatible service."""

    Parameters = OpenAIParameters
    in_worker = False
    paths_are_files = False
    is_service = True
    about = (
        "Any OpenAI-compatible service, or a server of your own: the largest models without memory of yours; what you "
        "write goes there, and may cost money."
    )
    strengths = Strengths(
        performance="the service's; the network adds to it",
        flexibility="any model that the service has",
        quality="the largest models there are",
        cost="by the token, or nothing at a server of your own",
        privacy="goes to the service",
    )
    path_label = "Model"
    path_help = "Its name at the service; Test connection lists them."
    path_example = "gpt-4o-mini"
    reads_beside = True

    def __init__(self) -> None:
        self._service: Service | None = None
        self._lane: Lane | None = None
        self._warnings: tuple[str, ...] = ()

    def check(self, path: str, parameters: Mapping[str, Any]) -> None:
        require_package()
        _require_name(path)
        endpoint_of(parameters)

    def load_model(self, model_path: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.unload_model()
        settings = dict(parameters or {})
        endpoint = endpoint_of(settings)
        self._service = Service(endpoint, _require_name(model_path))
        self._lane = Lane(self._service)
        self.sees_images = settings.get("images") is not False
        self._warnings = tuple(_warnings(endpoint, settings))
        if endpoint.key.is_literal:
            logger.warning("%s: %s", endpoint.host, PLAIN_KEY)
        if endpoint.proxy:
            logger.warning("Messages to %s go through the proxy %s.", endpoint.host, endpoint.proxy)

    def is_model_loaded(self) -> bool:
        return self._service is not None

    def unload_model(self) -> None:
        service, self._service, self._lane = self._service, None, None
        if service is not None:
            service.close()

    def lanes(self) -> Sequence[BaseBackend]:
        if self._service is None:
            return (self,)
        return [Lane(self._service) for _ in range(self._service.endpoint.parallel)]

    def generate_stream(self, prompt: str, parameters: Mapping[str, Any] | None = None) -> Iterator[str | Chunk]:
        return self._loaded_lane().generate_stream(prompt, parameters)

    def chat_stream(
        self, messages: Sequence[Message], parameters: Mapping[str, Any] | None = None
    ) -> Iterator[str | Chunk]:
        return self._loaded_lane().chat_stream(messages, parameters)

    def render(self, messages: Sequence[Message]) -> Prompt:
        sent = messages_of([replace(message, images=()) for message in messages])
        return Prompt(json.dumps(sent, indent=2, ensure_ascii=False))  # the rest is the service's secret

    def stop(self) -> None:
        lane = self._lane
        if lane is not None:
            lane.stop()

    def service_models(self, parameters: Mapping[str, Any]) -> Sequence[str]:
        require_package()
        return service_models(parameters)

    def require_public(self, parameters: Mapping[str, Any]) -> None:
        require_public(parameters.get("api_base"))

    def list_models(self) -> list[str]:
        """Return the names of the models at the service of the loaded one."""
        self._loaded_lane()
        assert self._service is not None
        return self._service.models()

    def describe(self, path: str) -> ModelCard:
        facts = {"Model at the service": path}
        if self._service is not None:
            facts = {"Service": self._service.endpoint.host, **facts}
        return ModelCard(facts=facts)

    def summary(self) -> Sequence[str]:
        return (self._service.endpoint.host,) if self._service is not None else ()

    def warnings(self) -> Sequence[str]:
        return self._warnings if self._service is not None else ()

    def _loaded_lane(self) -> Lane:
        if self._lane is None:
            raise NoModelLoaded("No model is loaded. Load one first.")
        return self._lane


def service_models(parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of the models at the service that a model's parameters describe.

    Raises:
        ParameterError: the address, the key or another of them cannot be used.
        ServiceError: the service refuses, or cannot be reached.
    """
    service = Service(endpoint_of(parameters))
    try:
        return service.models()
    finally:
        service.close()


def _require_name(path: str) -> str:
    if not path.strip():
        raise ModelError("Write the model's name at the service as its path, such as path: gpt-4o-mini")
    return path.strip()


def _warnings(endpoint: Endpoint, settings: Mapping[str, Any]) -> Iterator[str]:
    if endpoint.key.is_literal:
        yield PLAIN_KEY
    unsent = [name for name in EXTRA if settings.get(name) is not None] if endpoint.is_openai else []
    if unsent:
        yield f"{endpoint.host} does not know {', '.join(unsent)}, so that they are not sent. Remove them."
