"""The client of one loaded model: an event loop in a thread of its own, in which every answer is a task.

Cancelling a task closes its connection, whatever it waits for. The openai package makes the requests; how long to
wait, when to ask again and what to make of the bytes is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import math
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from ..errors import BackendMissing, ModelError, NotCompatible, NoVision
from ..packages import outdated
from ..types import Chunk, Message
from .keys import plain
from .openai_address import Endpoint, tls_context
from .openai_errors import (
    CHUNK_SECONDS,
    NOT_UNDERSTOOD,
    Refusal,
    connect_seconds,
    disconnected,
    page_or_text,
    refused,
    silent,
)
from .openai_request import Dialect, body_of
from .openai_stream import LEAST_CAP, AnswerReader

logger = logging.getLogger("llamaforge")

NO_KEY = "none"  # some servers want a key, whichever
MOST_RETRIES = 2
LONGEST_WAIT = 30.0
LONGEST_REFUSAL = 64 * 1024
REFUSAL_SECONDS = 5.0
USAGE_SECONDS = 1.0  # for the token counts, once the text has ended
END_SECONDS = 0.1  # for the end of a complete answer, so that its connection can be used again
CLOSE_SECONDS = 2.0


def require_package() -> None:
    """Raise a sentence with what to install where the openai package is missing or too old."""
    if importlib.util.find_spec("openai") is None:
        raise BackendMissing(
            "OpenAI-compatible services need the package openai, which is not installed. "
            'Install it and start again: pip install "openai>=2"'
        )
    if sentence := outdated("openai"):
        raise BackendMissing(sentence)


class Service:
    """A service, ready to be asked; `close` ends everything that runs."""

    def __init__(self, endpoint: Endpoint, model: str = "") -> None:
        require_package()
        self.endpoint = endpoint
        self.model = model
        self.dialect = Dialect.of(endpoint, model)
        self._client = _client(endpoint)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llamaforge-service", daemon=True)
        self._thread.start()

    def submit(self, task: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run a task in the thread; cancelling the future ends the task."""
        try:
            return asyncio.run_coroutine_threadsafe(task, self._loop)
        except RuntimeError:
            task.close()
            raise ModelError("The model was unloaded. Load it and send your message again.") from None

    def close(self) -> None:
        if self._loop.is_closed():
            return
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            asyncio.run_coroutine_threadsafe(self._wind_up(), self._loop).result(2 * CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    async def _wind_up(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.close()

    def models(self) -> list[str]:
        """Return the names of the models at the service."""
        names: list[str] = self.submit(self._models()).result()
        return names

    async def _models(self) -> list[str]:
        body = b""
        try:
            async with asyncio.timeout(self.endpoint.timeout), self._get_models() as response:
                async for data in response.http_response.aiter_raw():
                    body += data
                    if len(body) > LEAST_CAP:
                        raise NotCompatible(NOT_UNDERSTOOD)
        except Exception as failure:
            error = self._error(failure)
            known = refused(error, self.endpoint, self.model) if isinstance(error, Refusal) else error
            raise known from failure
        return _names(body)

    def _get_models(self) -> Any:
        return self._client.models.with_streaming_response.list(extra_headers=self._headers())

    async def answer(self, messages: Sequence[Message], settings: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        """Yield the answer to a chat; ask again where the service is busy, or refuses a word of the request."""
        waits = lessons = 0
        while True:
            body = body_of(self.model, messages, settings, self.dialect)
            try:
                async with contextlib.aclosing(self._attempt(body, settings)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except Refusal as refusal:
                if refusal.is_blind and any(message.images for message in messages):
                    raise NoVision(self.model) from None
                note = self.dialect.learn(refusal, body) if lessons < 3 else None
                if note is not None:
                    lessons += 1
                    if note:
                        logger.warning("%s", note)
                        yield Chunk(note=note)
                    continue
                if not _is_worth_waiting(refusal, waits):
                    raise refused(refusal, self.endpoint, self.model) from None
                wait = refusal.retry_after
            waits += 1
            async for chunk in _countdown(wait):
                yield chunk

    async def _attempt(self, body: Mapping[str, Any], settings: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        reader = AnswerReader(self.endpoint, settings.get("stop") or (), settings.get("max_tokens"))
        try:
            async with contextlib.AsyncExitStack() as open_request:
                response = await self._opened(open_request, body)
                parts = response.http_response.aiter_raw()
                while not reader.complete and (data := await self._next(parts, reader)) is not None:
                    for chunk in reader.feed(data):
                        yield chunk
                for chunk in reader.end():
                    yield chunk
                yield reader.rest()
                yield reader.last()
                await _drained(parts)
        except Refusal:
            raise
        except Exception as failure:
            yield reader.rest()
            if not reader.finished:
                raise self._error(failure, begun=reader.begun) from failure
            yield reader.last()  # the text had ended; only the token counts are lost

    async def _opened(self, stack: contextlib.AsyncExitStack, body: Mapping[str, Any]) -> Any:
        """Send a request and return the response once its header is there."""
        create = self._client.chat.completions.with_streaming_response.create
        known = {name: body[name] for name in ("model", "messages", "stream")}
        others = {name: value for name, value in body.items() if name not in known}
        request = create(**known, extra_body=others, extra_headers=self._headers())
        try:
            async with asyncio.timeout(self.endpoint.timeout):
                return await stack.enter_async_context(request)
        except TimeoutError:
            raise silent(self.endpoint, self.endpoint.timeout, begun=False) from None

    async def _next(self, parts: AsyncIterator[bytes], reader: AnswerReader) -> bytes | None:
        """Return the next part of an answer, which must come in time; None at its end."""
        if reader.finished:
            return await self._counts(parts, reader)
        seconds = min(CHUNK_SECONDS, self.endpoint.timeout) if reader.begun else self.endpoint.timeout
        try:
            async with asyncio.timeout(seconds):
                return await anext(parts, None)
        except TimeoutError:
            raise silent(self.endpoint, seconds, begun=reader.begun) from None

    async def _counts(self, parts: AsyncIterator[bytes], reader: AnswerReader) -> bytes | None:
        """Return what follows the text, as long as it comes soon; a server that writes on has missed a stop text."""
        reader.leave_at = reader.leave_at or self._loop.time() + min(USAGE_SECONDS, self.endpoint.timeout)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(reader.leave_at):
                return await anext(parts, None)
        return None

    def _headers(self) -> dict[str, Any]:
        """Return the headers of one request; the key is read now, and the variables of others are not sent."""
        from openai import Omit

        endpoint = self.endpoint
        return {
            "Authorization": f"Bearer {endpoint.key.read() or NO_KEY}",
            "OpenAI-Organization": endpoint.organization or Omit(),
            "OpenAI-Project": Omit(),
        }

    def _error(self, failure: Exception, *, begun: bool = False) -> Exception:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, Refusal):
                return cause if not begun else refused(cause, self.endpoint, self.model)
            cause = cause.__cause__
        if isinstance(failure, TimeoutError):
            return silent(self.endpoint, self.endpoint.timeout, begun=begun)
        return disconnected(failure, self.endpoint, begun=begun)


def _client(endpoint: Endpoint) -> Any:
    import openai

    try:
        http = openai.DefaultAsyncHttpxClient(
            verify=tls_context(endpoint) or True,
            follow_redirects=False,
            event_hooks={"request": [_watched], "response": [_judged]},
        )
    except Exception as failure:  # noqa: BLE001 - of a proxy's address that makes no sense, say
        words = plain(str(failure), endpoint.key.secrets(), 160)
        raise ModelError(f"No connection can be set up: {words} Check the proxy's environment variables.") from None
    return openai.AsyncOpenAI(
        api_key=NO_KEY,  # each request brings its own
        base_url=endpoint.url,
        max_retries=0,
        http_client=http,
        timeout=openai.Timeout(None, connect=connect_seconds(endpoint)),
        default_headers={"Accept-Encoding": "identity"},
    )


async def _watched(request: Any) -> None:
    """Close the connection of a request that is given up while it is being encrypted, which nobody else does."""
    streams: list[Any] = []

    async def watch(event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(".connect_tcp.complete"):
            streams.append(info["return_value"])
        elif event.endswith(".start_tls.failed"):
            for stream in streams:
                await stream.aclose()

    request.extensions["trace"] = watch


async def _judged(response: Any) -> None:
    """Raise a Refusal for every status but 2xx, before anybody reads its body without a limit."""
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", ""):
        raise NotCompatible(f"The service sent compressed data, which it was asked not to do. {NOT_UNDERSTOOD}")
    if 200 <= response.status_code < 300:
        return
    body = b""
    with contextlib.suppress(Exception):  # half an explanation is better than none
        async with asyncio.timeout(REFUSAL_SECONDS):
            async for data in response.aiter_raw():
                body += data
                if len(body) > LONGEST_REFUSAL:
                    break
    headers = {name.lower(): value for name, value in response.headers.items()}
    raise Refusal(response.status_code, body[:LONGEST_REFUSAL].decode("utf-8", "replace"), headers)


def _is_worth_waiting(refusal: Refusal, waits: int) -> bool:
    if refusal.status != 429 or refusal.is_without_credit or waits >= MOST_RETRIES:
        return False
    return refusal.retry_after <= LONGEST_WAIT


async def _countdown(seconds: float) -> AsyncIterator[Chunk]:
    for left in range(math.ceil(seconds), 0, -1):
        yield Chunk(note=f"The service is busy; trying again in {left} s.")
        await asyncio.sleep(min(1.0, seconds))


async def _drained(parts: AsyncIterator[bytes]) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(END_SECONDS):
            async for _ in parts:
                pass


def _names(body: bytes) -> list[str]:
    """Return the names in an answer to GET /models."""
    try:
        listed = json.loads(body)
        models = listed["data"] if isinstance(listed, dict) else listed
        return sorted({model["id"] for model in models if isinstance(model["id"], str)})
    except (ValueError, RecursionError, TypeError, KeyError):
        raise page_or_text(body[:64].decode("utf-8", "replace")) from None
