"""Who may call what: every handler has a role, public mode builds nothing for owners, and nothing opens by itself."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from page_kit import Program, free_port
from tiny_gguf import DEFAULT_ANSWER, write_tiny_gguf

from llamaforge import LlamaForge, ModelError
from llamaforge_ui import Access, Hosts, Site, build_pages, is_public, launch_options
from llamaforge_ui.access import HOSTED
from llamaforge_ui.guests import Guests
from llamaforge_ui.page import Page
from llamaforge_ui.parameters_tab import draw_controls

# Gradio leaves the event loops that it makes for itself to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed (event loop|<socket):ResourceWarning"),
    pytest.mark.usefixtures("no_leftovers"),
]

OWNER_IDS = ("model-select", "load-model", "unload-model", "register-", "models-", "param", "edit-model", "save-")
SECRETS = ("/very/secret/place", "secret words", "17.25", "tokens_per_second")
SECRET_MODEL = """\
backend: echo
path: /very/secret/place
description: secret words
parameters:
  tokens_per_second: 17.25
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "secret-model.yaml").write_text(SECRET_MODEL, "utf-8")
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "models" / "tiny.yaml").write_text(f"backend: llama.cpp\npath: {path}\n", "utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A public app with a model that takes its time; the address is returned."""
    yield from serving(tmp_path_factory.mktemp("public"), "0.0.0.0")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same for this computer alone."""
    yield from serving(tmp_path_factory.mktemp("local"), "127.0.0.1")


def serving(folder: Path, host: str) -> Iterator[str]:
    (folder / "models").mkdir()
    (folder / "models" / "secret-model.yaml").write_text(SECRET_MODEL, "utf-8")
    flags = ("--config", str(folder), "--host", host, "--port", str(free_port()), "--model", "secret-model")
    program = Program(*flags)
    program.wait_until_up()
    yield f"http://127.0.0.1:{flags[5]}"
    assert program.stop() == 0


def handlers(blocks: gr.Blocks) -> dict[str, Callable[..., Any]]:
    """Return every function that a browser can call; only drawing a render is Gradio's own."""
    return {f"{number} {fn.name}": fn.fn for number, fn in blocks.fns.items() if fn.fn and not fn.renderable}


def ids(blocks: gr.Blocks) -> list[str]:
    return [block.elem_id for block in blocks.blocks.values() if block.elem_id]


@pytest.mark.parametrize("local", [True, False], ids=["local", "public"])
def test_every_handler_has_a_role(folder: Path, local: bool) -> None:
    found = handlers(build_pages(LlamaForge(folder), Access(public=not local)).front)
    assert len(found) > 8
    assert [name for name, fn in found.items() if getattr(fn, "role", None) not in ("owner", "guest")] == []


def test_every_handler_of_a_drawn_control_is_the_owners(folder: Path) -> None:
    forge = LlamaForge(folder)
    page = Page(forge, Access(public=False), Guests(forge), "owner")
    with gr.Blocks(analytics_enabled=False) as blocks:
        draw_controls(page, "tiny", {}, gr.HTML())
    found = handlers(blocks)
    assert len(found) >= 15
    assert {getattr(fn, "role", None) for fn in found.values()} == {"owner"}


def test_public_mode_builds_nothing_for_owners(folder: Path) -> None:
    blocks = build_pages(LlamaForge(folder), Access(public=True)).front
    assert {fn.role for fn in handlers(blocks).values()} == {"guest"}  # type: ignore[attr-defined]
    assert not [fn for fn in blocks.fns.values() if fn.renderable]
    assert not [block for block in blocks.blocks.values() if isinstance(block, gr.Tab)]
    assert not [name for name in ids(blocks) if name.startswith(OWNER_IDS)]
    assert "chat-input" in ids(blocks)


def test_the_owners_page_has_what_the_public_one_lacks(folder: Path) -> None:
    found = ids(build_pages(LlamaForge(folder), Access(public=False)).front)
    assert [start for start in OWNER_IDS if not any(name.startswith(start) for name in found)] == []


def test_only_chat_is_published(folder: Path) -> None:
    for local in (True, False):
        blocks = build_pages(LlamaForge(folder), Access(public=not local)).front
        public = [fn.api_name for fn in blocks.fns.values() if fn.api_visibility == "public"]
        assert public == ["chat"]


def test_nobody_gets_past_the_queue(folder: Path) -> None:
    assert build_pages(LlamaForge(folder), Access(public=False)).front.api_open is False
    assert build_pages(LlamaForge(folder), Access(public=True)).front.api_open is False


def test_every_owner_handler_refuses_a_guest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forge = LlamaForge(folder)
    found = handlers(build_pages(forge, Access(public=False)).front)
    owners = [fn for fn in found.values() if fn.role == "owner"]  # type: ignore[attr-defined]
    monkeypatch.setattr(Access, "role", lambda self, request: "guest")
    before = forge.status
    for fn in owners:
        with pytest.raises(gr.Error, match="Only the owner can do this"):
            call(fn)
    assert len(owners) > 15
    assert forge.status == before


def call(fn: Callable[..., Any]) -> None:
    """Call a handler as Gradio does, with nothing in the fields."""
    names = [name for name in inspect.signature(fn).parameters if name != "request"]
    result = fn(*[None for _ in names], request=gr.Request())
    if inspect.isasyncgen(result):
        asyncio.run(exhaust(result))


async def exhaust(stream: AsyncIterator[Any]) -> list[Any]:
    return [update async for update in stream]


@pytest.mark.parametrize(
    ("host", "share", "variable", "local"),
    [
        ("127.0.0.1", False, "", True),
        ("localhost", False, "", True),
        ("::1", False, "", True),
        ("127.0.0.1", True, "", False),
        ("0.0.0.0", False, "", False),
        ("::", False, "", False),
        ("192.168.1.7", False, "", False),
        ("localhost.example.org", False, "", False),
        ("", False, "", False),
        *(("127.0.0.1", False, name, False) for name in HOSTED),
    ],
)
def test_the_way_of_starting_decides_who_is_the_owner(
    monkeypatch: pytest.MonkeyPatch, host: str, share: bool, variable: str, local: bool
) -> None:
    for name in HOSTED:
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "1")
    assert is_public(host, share) is not local
    assert Access(is_public(host, share)).role(gr.Request()) == ("owner" if local else "guest")


def test_spaces_and_notebooks_are_known_as_hosted() -> None:
    assert {"SPACE_ID", "COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"} <= set(HOSTED)


def test_a_call_without_a_request_is_a_guests() -> None:
    assert Access(public=False).role(None) == "guest"


def test_a_guest_has_no_effect_through_an_owners_handler() -> None:
    done: list[str] = []

    @Access(public=True).handler("owner")
    def remove(values: dict[str, Any], request: gr.Request) -> None:
        done.append("removed")

    with pytest.raises(gr.Error, match="Only the owner can do this."):
        remove({}, gr.Request())
    assert done == []


def test_a_guest_has_no_effect_through_an_owners_stream() -> None:
    done: list[str] = []

    @Access(public=True).handler("owner")
    async def load(request: gr.Request) -> AsyncIterator[str]:
        done.append("loaded")
        yield "x"

    with pytest.raises(gr.Error, match="Only the owner can do this."):
        asyncio.run(exhaust(load(gr.Request())))
    assert done == []


def test_a_stream_that_has_nothing_to_draw_leaves_the_page_as_it_is() -> None:
    @Access(public=False).handler("guest")
    async def silent(request: gr.Request) -> AsyncIterator[str]:
        for text in ():
            yield text

    assert asyncio.run(exhaust(silent(gr.Request()))) == [gr.skip()]


def test_an_error_of_ours_becomes_a_sentence_and_a_bug_does_not() -> None:
    @Access(public=False).handler("guest")
    def fail(error: Exception, request: gr.Request) -> None:
        raise error

    with pytest.raises(gr.Error, match="File not found"):
        fail(ModelError("File not found"), gr.Request())
    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError(), gr.Request())


def test_a_handler_of_another_shape_is_refused() -> None:
    async def coroutine(request: gr.Request) -> None: ...

    def generator(request: gr.Request) -> Iterator[int]:
        yield 1

    def blind(values: dict[str, Any]) -> None: ...

    for fn in (coroutine, generator, blind):
        with pytest.raises(TypeError, match=f"{fn.__name__} must"):
            Access(public=False).handler("guest")(fn)


def site(owner: gr.Blocks | None = None) -> Site:
    return Site(Access(public=owner is not None), Hosts(), owner)


def test_no_launch_option_is_left_to_a_variable() -> None:
    options = launch_options("127.0.0.1", 7860, share=False, site=site())
    source = "".join(path.read_text("utf-8") for path in Path(gr.__file__).parent.glob("*.py"))
    named = {name.removeprefix("GRADIO_").lower() for name in re.findall(r"GRADIO_[A-Z_]+", source)}
    settable = named & set(inspect.signature(gr.Blocks.launch).parameters)
    # Without server-side rendering there is no Node; None cannot overrule the share server, so app.py takes it away.
    assert settable - set(options) == {"node_server_name", "share_server_address"}
    assert len(settable) > 10
    assert options["ssr_mode"] is False


def test_what_gradio_would_switch_on_by_itself_is_off() -> None:
    options = launch_options("127.0.0.1", 7860, share=False, site=site())
    for name in ("share", "enable_monitoring", "mcp_server", "run_history", "pwa", "show_error", "debug", "inbrowser"):
        assert options[name] is False, name
    assert options["allowed_paths"] == [] and options["footer_links"] == []
    assert options["strict_cors"] is True


def test_the_public_page_tells_no_secret(public: str) -> None:
    for place in ("/", "/config"):
        answer = httpx.get(public + place)
        assert answer.status_code == 200
        assert [secret for secret in SECRETS if secret in answer.text] == [], place


def test_every_answer_forbids_the_browser_to_load_from_elsewhere(public: str) -> None:
    for path in ("/", "/config", "/theme.css", "/no/such/page"):
        headers = httpx.get(f"{public}{path}", timeout=30).headers
        policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert policy["img-src"] == "'self' data: blob:" and policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == "'self'" and policy["frame-src"] == "'none'"
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "same-origin")
        assert headers["x-dns-prefetch-control"] == "off"


def test_the_end_of_an_answer_repeats_nothing_that_the_next_one_has_changed(folder: Path) -> None:
    blocks = build_pages(LlamaForge(folder), Access(public=False)).front
    for name in ("arrive", "send"):
        fn = next(fn.fn for fn in blocks.fns.values() if fn.name == name)
        values = {block: "" for block in blocks.blocks.values()}
        argument = "a key of thirty-two characters at least" if name == "arrive" else values
        last = asyncio.run(collect(fn(argument, request=gr.Request(session_hash="ada"))))[-1]
        assert sorted(last.values()) == ["Regenerate", "Send", "Stop", "Undo"]


def test_nothing_but_the_page_is_served(public: str) -> None:
    for place in ("/monitoring", "/monitoring/summary", "/docs", "/redoc", "/openapi.json", "/gradio_api/mcp/"):
        assert httpx.get(public + place, follow_redirects=True).status_code >= 400, place
    for path in ("/etc/passwd", "app.py", "configs/settings.yaml"):
        assert httpx.get(f"{public}/gradio_api/file={path}").status_code >= 400, path


def test_guests_are_told_the_models_name_and_state(public: str) -> None:
    number = next(fn["id"] for fn in httpx.get(f"{public}/config").json()["dependencies"] if fn["api_name"] == "look")
    body = {"data": [], "fn_index": number, "session_hash": "a guest"}
    shown = httpx.post(f"{public}/gradio_api/run/predict", json=body).text
    assert "ready" in shown
    assert "secret-model" in shown  # "The model that answers is named at the top."
    assert [secret for secret in SECRETS if secret in shown] == []


def test_a_post_past_the_queue_is_refused(public: str) -> None:
    for name in ("chat", "send", "regenerate"):
        answer = httpx.post(f"{public}/gradio_api/run/{name}", json={"data": ["Hello"], "session_hash": "a guest"})
        assert (answer.status_code, answer.json()["error"]) == (403, "This is closed.")


def test_the_endpoint_streams_growing_text(local: str) -> None:
    client = Client(local, verbose=False)
    message = "one two three four five six seven eight nine ten"
    texts = list(client.submit(message, api_name="/chat"))
    assert len(set(texts)) >= 3
    assert all(after.startswith(before) for before, after in zip(texts, texts[1:], strict=False))
    assert texts[-1] == message


def test_the_endpoint_is_all_that_a_client_sees(local: str) -> None:
    seen = Client(local, verbose=False).view_api(return_format="dict", print_info=False)
    assert list(seen["named_endpoints"]) == ["/chat"]
    assert not seen["unnamed_endpoints"]


def test_the_endpoint_answers_the_same_message_twice(local: str) -> None:
    client = Client(local, verbose=False)
    assert [client.predict("again", api_name="/chat") for _ in range(2)] == ["again", "again"]


def test_the_endpoint_refuses_an_empty_message_with_a_sentence(local: str) -> None:
    with pytest.raises(AppError, match="Write a message first."):
        Client(local, verbose=False).predict("  ", api_name="/chat")


def test_a_cancelled_call_frees_the_model(local: str) -> None:
    client = Client(local, verbose=False)
    job = client.submit("word " * 400, api_name="/chat")
    next(iter(job))
    job.cancel()
    assert Client(local, verbose=False).submit("short", api_name="/chat").result(timeout=10) == "short"


def test_the_endpoint_keeps_one_conversation_a_client(folder: Path) -> None:
    forge = LlamaForge(folder)
    forge.load_model("tiny", {"n_threads": 1})
    blocks = build_pages(forge, Access(public=False)).front
    chat = next(fn.fn for fn in blocks.fns.values() if fn.api_name == "chat")
    first, second = prompts(forge, chat, "ada"), prompts(forge, chat, "bob")
    assert first[0] < first[1] < first[2]
    assert first == second
    forge.unload_model()


def prompts(forge: LlamaForge, chat: Any, session: str) -> list[int]:
    """Return how many tokens the model was given at each of three messages of one client."""
    started: list[Any] = []
    stream = forge.chat_stream
    forge.chat_stream = lambda messages, parameters=None, **more: (
        started.append(stream(messages, parameters, **more)) or started[-1]
    )
    for message in ("Hello", "How are you?", "What can you do?"):
        texts = asyncio.run(collect(chat(message, request=gr.Request(session_hash=session))))
        assert texts[-1] == DEFAULT_ANSWER
    forge.chat_stream = stream
    return [generation.result.usage.prompt_tokens for generation in started]


async def collect(stream: AsyncIterator[str]) -> list[str]:
    return [text async for text in stream]
