"""A stranger at the door: hosts, origins, routes, bodies and cookies, over plain HTTP at a page that is shared."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import httpx
import pytest
import yaml
from guest_kit import PATIENCE, Guest
from page_kit import Program, free_port
from scripted import until

from llamaforge import LlamaForge
from llamaforge_ui import Access, Hosts, OwnerLogin, Site, build_pages, launch_options
from llamaforge_ui.access import COOKIE, OWNER_ONLY
from llamaforge_ui.gate import LARGEST_BODY

PASSPHRASE = "kite-marble-seven-orbit"
CLOSED = "This is closed."
# Gradio leaves the event loops that it makes for itself to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed (event loop|<socket):ResourceWarning"),
    pytest.mark.usefixtures("no_leftovers"),
]


class Shared(NamedTuple):
    """A page that is shared, its config folder, and the owner's cookie."""

    url: str
    folder: Path
    cookie: str
    program: Program

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def guest(self, session: str = "a guest", **headers: str) -> Guest:
        return Guest(self.url, session, **headers)

    def owner(self, session: str = "the owner", **headers: str) -> Guest:
        return Guest(f"{self.url}/owner", session, Cookie=self.cookie, **headers)


def write_models(folder: Path) -> Path:
    (folder / "models").mkdir(parents=True)
    for name in ("open-model", "secret-model"):
        settings = {"backend": "echo", "path": "/very/secret/place", "description": "secret words"}
        (folder / "models" / f"{name}.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    (folder / "settings.yaml").write_text("allowed_hosts: [chat.example]\nguests:\n  messages_per_10_minutes: 500\n")
    return folder


def log_in(url: str, passphrase: str = PASSPHRASE) -> httpx.Response:
    return httpx.post(f"{url}/owner", data={"passphrase": passphrase}, timeout=PATIENCE)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    folder = write_models(tmp_path_factory.mktemp("shared") / "configs")
    flags = ("--config", str(folder), "--host", "0.0.0.0", "--port", str(free_port()), "--model", "open-model")
    program = Program(*flags, env={"LLAMAFORGE_OWNER_PASSWORD": PASSPHRASE})
    program.wait_until_up()
    url = f"http://127.0.0.1:{flags[5]}"
    made = Shared(url, folder, f"{COOKIE}={log_in(url).cookies[COOKIE]}", program)
    until(lambda: "lf-ready" in made.guest().call("look"))
    yield made
    assert program.stop() == 0


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page for this computer alone."""
    folder = write_models(tmp_path_factory.mktemp("local") / "configs")
    program = Program("--config", str(folder), "--port", str(free_port()))
    yield program.wait_until_up()
    assert program.stop() == 0


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def raw(port: int, text: bytes) -> bytes:
    """Send bytes as they are and return the answer's beginning."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), PATIENCE)) as line:
        line.sendall(text)
        return line.recv(65536)


# Roles


def test_the_owners_page_has_events_that_guests_have_not(shared: Shared) -> None:
    guests = {event["api_name"] for event in shared.guest().events()}
    owners = {event["api_name"] for event in shared.owner().events()}
    assert {"load", "unload", "remove", "save", "turn", "add"} <= owners - guests
    assert {"send", "stop", "act", "export", "look"} <= guests


def test_every_event_of_the_owners_page_refuses_a_guest_however_it_is_called(shared: Shared) -> None:
    before, stranger = files(shared.folder), Guest(f"{shared.url}/owner", "a stranger")
    events = shared.owner().events()
    assert len(events) > 30
    for event in events:
        data = ["x" for _ in event["inputs"]]
        for path in (
            "queue/join",
            "run/predict",
            f"run/{event['api_name']}",
            f"call/{event['api_name']}",
            "call/v2/x",
        ):
            answer = stranger.post(f"/gradio_api/{path}", event["id"], data)
            assert (answer.status_code, answer.json()["error"]) == (403, OWNER_ONLY), (event["api_name"], path)
    assert files(shared.folder) == before
    assert "open-model" in shared.guest().call("look")


def test_an_event_of_the_owners_page_is_none_of_the_guests_page(shared: Shared) -> None:
    guest, before = shared.guest(), files(shared.folder)
    known = {event["id"] for event in guest.events()}
    for event in shared.owner().events():
        for path in (f"run/{event['api_name']}", f"call/{event['api_name']}", f"api/{event['api_name']}"):
            assert guest.post(f"/gradio_api/{path}", event["id"], []).status_code == 403, path
        if event["id"] not in known:
            answer = guest.post("/gradio_api/run/predict", event["id"], ["x" for _ in event["inputs"]])
            assert answer.status_code >= 400
    assert files(shared.folder) == before


def test_a_guest_reads_no_answer_of_the_owners(shared: Shared) -> None:
    asked = {"key": "k" * 32, "chat": "x", "drawn": 0}
    refused = shared.guest().http.post("/owner/live", json=asked)
    assert (refused.status_code, refused.json()["error"]) == (403, OWNER_ONLY)
    assert shared.guest().http.post("/live", json=asked).text == ": here\n\n"  # and by a guessed key nobody's


def test_the_handlers_refuse_a_guest_where_nothing_stands_before_them(tmp_path: Path) -> None:
    """The gate is one wall; every handler is another, by each of Gradio's ways in."""
    folder = write_models(tmp_path / "configs")
    forge, access = LlamaForge(folder), Access(public=True, login=OwnerLogin(PASSPHRASE))
    owner = build_pages(forge, access).owner
    assert owner is not None
    options = launch_options("127.0.0.1", free_port(), share=False, site=Site(access, Hosts(), None))
    options["app_kwargs"] = {}
    _app, url, _ = owner.launch(**options)
    before, status = files(folder), forge.status
    try:
        guest = Guest(url.rstrip("/"))
        roles = {number: getattr(fn.fn, "role", None) for number, fn in owner.fns.items() if fn.fn}
        called = [event for event in guest.events() if roles.get(event["id"]) == "owner"]
        assert len(called) > 20
        for event in called:
            data: list[Any] = [None for _ in event["inputs"]]
            edited = {"index": 0, "value": "x", "previous_value": ""}
            assert OWNER_ONLY in guest.join(event["id"], *data, event_data=edited), event["api_name"]
            if not event["queue"]:
                assert OWNER_ONLY in guest.post("/gradio_api/run/predict", event["id"], data).text, event["api_name"]
                by_name = guest.post(f"/gradio_api/run/{event['api_name']}", None, data)
                assert OWNER_ONLY in by_name.text or by_name.status_code >= 400, event["api_name"]
    finally:
        owner.close(verbose=False)
    assert (files(folder), forge.status) == (before, status)


def test_from_this_computer_without_a_cookie_one_is_a_guest(shared: Shared) -> None:
    for forged in ({}, {"X-Forwarded-For": "127.0.0.1"}, {"X-Real-IP": "::1"}, {"Authorization": "Bearer owner"}):
        answer = httpx.get(f"{shared.url}/owner/config", headers=forged)
        assert (answer.status_code, answer.json()["error"]) == (403, OWNER_ONLY)


def test_a_page_that_asks_for_the_owner_leads_to_the_login(shared: Shared) -> None:
    answer = httpx.get(f"{shared.url}/owner/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/owner")
    assert "Passphrase" in httpx.get(f"{shared.url}/owner").text


def test_guests_are_told_nothing_of_the_owners(shared: Shared) -> None:
    secrets = (
        "secret",
        str(shared.folder),
        str(Path.home()),
        "/tmp",
        PASSPHRASE,
        "load_model",
        "What the model is told",
    )
    for path in ("/", "/config", "/theme.css", "/owner", "/gradio_api/app_id", "/nothing", "/gradio_api/info"):
        text = httpx.get(f"{shared.url}{path}", timeout=PATIENCE).text
        assert [secret for secret in secrets if secret in text and (path, secret) != ("/", "/tmp")] == [], path


def test_no_guest_reaches_the_chat_of_another_or_the_owners_by_its_id(shared: Shared) -> None:
    ada, eve, owner = shared.guest(), shared.guest(), shared.owner()
    ada.session, eve.session, owner.session = "adas session", "eves session", "owners session"
    owners_chat, adas_chat = (say(who, who.session * 3, "a secret marker") for who in (owner, ada))
    own = say(eve, "e" * 32, "a harmless word")
    for chat in (owners_chat, adas_chat):
        for act in ("open", "delete", "pin", "rename", "restore", "branch", "switch", "prompt", "settings"):
            asked = json.dumps({"act": act, "chat": chat, "turn": 1, "step": 1})
            assert "secret marker" not in eve.join("act", asked, "e" * 32, own, "", ""), act
        assert "secret marker" not in eve.join("act", json.dumps({"act": "older"}), "e" * 32, chat, "", "")
        for act in ("json", "markdown", "json-all", "markdown-all"):
            assert "secret marker" not in eve.call("export", json.dumps({"act": act, "chat": chat})), act
        assert "secret marker" not in eve.join("send", "", "hello", "e" * 32, chat, "", "")
        assert "secret marker" not in eve.call("search", "marker")
    assert "secret marker" in ada.join("arrive", ada.session * 3)


def say(who: Guest, key: str, text: str) -> str:
    """Have a message answered in a chat of one's own and return the chat's id."""
    who.join("arrive", key)
    said = who.join("send", "", text, key, "", "no answer is drawn", "")  # else the page is left to draw it from /live
    found = re.search(r'data-chat=\\"([0-9a-f]{32})', said)
    assert found is not None
    return found[1]


# Cookies


def test_the_cookie_is_out_of_reach_of_scripts_and_other_pages(shared: Shared) -> None:
    cookie = log_in(shared.url).headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "Secure" not in cookie
    https = httpx.post(f"{shared.url}/owner", data={"passphrase": PASSPHRASE}, headers={"X-Forwarded-Proto": "https"})
    assert "Secure" in https.headers["set-cookie"]


def test_a_session_is_the_owners_until_the_logout(shared: Shared) -> None:
    cookie = {"Cookie": f"{COOKIE}={log_in(shared.url).cookies[COOKIE]}"}
    assert httpx.get(f"{shared.url}/owner/config", headers=cookie).status_code == 200
    assert httpx.post(f"{shared.url}/owner/logout", headers=cookie).headers["location"] == "/owner"
    assert httpx.get(f"{shared.url}/owner/config", headers=cookie).status_code == 403
    assert httpx.post(f"{shared.url}/owner/logout", headers=cookie).status_code == 403


@pytest.mark.parametrize(
    "change", [lambda c: c[:-1], lambda c: c + "A", lambda c: f"{COOKIE}=", lambda c: f"{COOKIE}=1"]
)
def test_a_tampered_cookie_is_a_guests(shared: Shared, change: Any) -> None:
    answer = httpx.get(f"{shared.url}/owner/config", headers={"Cookie": change(shared.cookie)})
    assert answer.status_code == 403


def test_a_wrong_passphrase_is_answered_with_a_page_and_no_cookie(shared: Shared) -> None:
    answer = log_in(shared.url, "not the right one")
    assert answer.status_code == 403 and "That is not the passphrase." in answer.text
    assert "set-cookie" not in answer.headers and "not the right one" not in answer.text


# Hosts and origins


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "a@127.0.0.1", ""]
)
def test_a_page_on_this_computer_answers_to_its_own_names_only(local: str, host: str) -> None:
    answer = httpx.get(local, headers={"Host": host})
    port = local.rsplit(":", 1)[1]
    assert (answer.status_code, answer.json()["error"]) == (
        403,
        f"This address is not allowed. Open http://127.0.0.1:{port}.",
    )


def test_a_request_without_a_host_is_refused(local: str) -> None:
    assert b" 403 " in raw(int(local.rsplit(":", 1)[1]), b"GET / HTTP/1.0\r\n\r\n").splitlines()[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "LOCALHOST", "127.0.0.1:9999"])
def test_this_computers_own_names_are_answered(local: str, host: str) -> None:
    assert httpx.get(local, headers={"Host": host}, timeout=PATIENCE).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("192.168.1.7:7860", 200),
        ("[fe80::1]:7860", 200),
        ("chat.example", 200),
        (socket.gethostname(), 200),
        ("evil.example", 403),
    ],
)
def test_a_shared_page_answers_to_addresses_and_to_names_that_the_owner_allowed(
    shared: Shared, host: str, status: int
) -> None:
    assert httpx.get(shared.url, headers={"Host": host}, timeout=PATIENCE).status_code == status


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:1", "file://"]
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_another_page_can_use_neither_the_owners_cookie_nor_this_computer(
    shared: Shared, local: str, origin: str, kind: str
) -> None:
    before = files(shared.folder)
    headers = {"Origin": origin, "Cookie": shared.cookie, "Content-Type": kind}
    number = shared.owner().number("unload")
    body = json.dumps({"data": [], "fn_index": number, "session_hash": "evil"})
    for url in (f"{shared.url}/owner/gradio_api/queue/join", f"{local}/gradio_api/queue/join", f"{shared.url}/owner"):
        answer = httpx.post(url, content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (403, "Another page may not use this one.")
    assert httpx.get(f"{local}/config", headers={"Origin": origin}).status_code == 403
    assert files(shared.folder) == before and "lf-ready" in shared.guest().call("look")


def test_the_page_itself_may_ask(shared: Shared) -> None:
    for origin, host in ((shared.url, shared.url.removeprefix("http://")), ("https://chat.example", "127.0.0.1")):
        guest = Guest(shared.url, Origin=origin, Host=host)
        assert "lf-ready" in guest.call("look")


# Routes and bodies


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=configs/models/secret-model.yaml",
        "/gradio_api/file=..%2f..%2fetc%2fpasswd",
        "/gradio_api/file=C:/Windows/win.ini",
        "/gradio_api/file=app.py",
        "/gradio_api/file=.env",
        "/gradio_api/file/app.py",
        "/file=app.py",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/gradio_api/upload",
        "/gradio_api/upload_progress?upload_id=1",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/mcp/",
        "/gradio_api/mcp/sse",
        "/gradio_api/vibe-code",
        "/gradio_api/deep_link",
        "/gradio_api/token",
        "/gradio_api/user",
        "/gradio_api/dev/reload",
        "/gradio_api/runs",
        "/monitoring",
        "/monitoring/summary",
        "/login",
        "/logout",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
def test_what_guests_do_not_need_is_closed(shared: Shared, path: str, method: str) -> None:
    answer = httpx.request(method, f"{shared.url}{path}", timeout=PATIENCE)
    assert answer.status_code == 403 and answer.json()["error"] in (CLOSED, OWNER_ONLY)
    mounted = httpx.request(method, f"{shared.url}/owner{path}", timeout=PATIENCE)
    assert mounted.status_code == 403 and mounted.json()["error"] == OWNER_ONLY


@pytest.mark.parametrize(
    "path", ["/gradio_api/upload", "/gradio_api/file=/etc/passwd", "/monitoring", "/gradio_api/mcp/"]
)
def test_some_is_closed_to_the_owner_too(shared: Shared, path: str) -> None:
    answer = shared.owner().http.get(path)
    assert (answer.status_code, answer.json()["error"]) == (403, CLOSED)


def test_every_route_of_gradio_is_either_needed_or_closed(shared: Shared) -> None:
    """A route that Gradio's next release brings is closed until somebody opens it."""
    owner = build_pages(LlamaForge(shared.folder), Access(public=False)).front
    app = gr.routes.App.create_app(owner)
    routers = [app, *(route.original_router for route in app.routes if hasattr(route, "original_router"))]
    paths = {route.path for router in routers for route in router.routes if hasattr(route, "path")}
    assert len(paths) > 60
    opened, guest = set(), shared.guest()
    for path in sorted(paths):
        filled = path.replace("{path:path}", "x").replace("{", "").replace("}", "")
        for method in ("GET", "POST"):
            if path != "/gradio_api/heartbeat/{session_hash}":  # it streams for as long as one listens
                answer = guest.http.request(method, filled, json={} if method == "POST" else None)
                opened |= {f"{method} {path}"} if answer.status_code not in (403, 404, 405) else set()
    assert opened <= {
        "GET /",
        "GET /config",
        "GET /config/",
        "GET /theme.css",
        "GET /favicon.ico",
        "GET /robots.txt",
        "GET /manifest.json",
        "GET /gradio_api/theme.css",
        "GET /gradio_api/app_id",
        "GET /gradio_api/app_id/",
        "GET /gradio_api/startup-events",
        "GET /gradio_api/queue/data",
        "POST /gradio_api/queue/join",
        "POST /gradio_api/queue/join/",
        "POST /gradio_api/cancel",
        "POST /gradio_api/reset",
        "POST /gradio_api/reset/",
    }


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_an_address_that_is_none_gets_a_short_sentence(shared: Shared, method: str) -> None:
    answer = httpx.request(method, f"{shared.url}/no/such/page")
    assert (answer.status_code, answer.json()["error"]) == (404, "Nothing is here.")


def test_an_upload_leaves_nothing_on_the_disk(shared: Shared) -> None:
    before = files(shared.folder.parent)
    for name in ("../../x", "x" * 200, "a.txt"):
        answer = httpx.post(f"{shared.url}/gradio_api/upload", files={"files": (name, b"x" * 1000)})
        assert answer.status_code == 403
    assert files(shared.folder.parent) == before


def test_a_body_of_a_gigabyte_is_refused_before_it_is_sent(shared: Shared) -> None:
    head = b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000000\r\n\r\n"
    assert b" 413 " in raw(shared.port, head).splitlines()[0]


def test_a_body_that_does_not_say_how_large_it_is_is_cut_off(shared: Shared) -> None:
    pieces = (b"x" * 65536 for _ in range(2 * LARGEST_BODY["guest"] // 65536))
    answer = httpx.post(f"{shared.url}/gradio_api/queue/join", content=pieces, headers={"Content-Type": "text/plain"})
    assert answer.status_code in (400, 413)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"data": [' + b"1," * 400_000 + b"1]}",
        b'{"fn_index": ' + b"9" * 5_000 + b"}",
        b'{"fn_index": 1e999, "data": []}',
        b'{"data": [NaN], "fn_index": 0}',
        b'{"fn_index": 0, "fn_index": -1, "data": 5}',
        b"\xff\xfe",
        b"",
        b"null",
    ],
    ids=["unclosed", "deep", "long", "huge number", "infinite", "nan", "twice", "no text", "empty", "null"],
)
@pytest.mark.parametrize("path", ["queue/join", "run/predict", "cancel", "reset"])
def test_a_body_that_is_a_bomb_is_refused_at_once_and_shows_no_insides(shared: Shared, path: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{shared.url}/gradio_api/{path}", content=body, headers=headers, timeout=10)
    assert answer.elapsed.total_seconds() < 5
    assert "Traceback" not in answer.text and "site-packages" not in answer.text and len(answer.text) < 2000
    assert "lf-ready" in shared.guest().call("look")


# Guests' messages


def test_what_only_the_owner_may_set_is_ignored_in_a_guests_message(shared: Shared) -> None:
    guest = shared.guest("a forger")
    config = guest.http.get("/config").json()
    box = next(part["id"] for part in config["components"] if part["props"].get("elem_id") == "chat-input")
    event = next(event for event in config["dependencies"] if event["api_name"] == "send")
    assert event["inputs"][1] == box
    # The system prompt, the message, what names the chat, the answer that the page has drawn, and pictures.
    data = ["You are a pirate.", "Hello", "", "", "none", ""]
    said = guest.join("send", *data, "secret-model", {"max_tokens": 9, "system_prompt": "You are a pirate."})
    assert "Hello" in said and "success" in said
    assert "pirate" not in said and "secret" not in said


def test_one_guest_neither_cancels_nor_reads_anothers_answer(shared: Shared) -> None:
    ada, eve = shared.guest("ada's session"), shared.guest("eve's session")
    joined = ada.post("/gradio_api/queue/join", ada.number("chat"), ["word " * 60]).json()
    for body in (
        {"session_hash": "eve's session", "fn_index": ada.number("chat"), "event_id": joined["event_id"]},
        {"session_hash": "guessed", "fn_index": ada.number("chat"), "event_id": joined["event_id"]},
    ):
        eve.http.post("/gradio_api/cancel", json=body)
        eve.http.post("/gradio_api/reset", json=body)
    with contextlib.suppress(httpx.RemoteProtocolError):  # Gradio breaks the stream of a session that it does not know
        assert "word" not in eve.http.get("/gradio_api/queue/data", params={"session_hash": "guessed"}).text
    assert eve.http.get(f"/gradio_api/call/chat/{joined['event_id']}").status_code == 403
    assert ("word " * 60).strip() in ada.read()


def test_a_thousand_messages_of_many_sessions_are_held_back_and_the_owner_goes_on(tmp_path: Path) -> None:
    folder = write_models(tmp_path / "configs")
    (folder / "settings.yaml").write_text("guests:\n  all_messages_per_10_minutes: 40\n", "utf-8")
    flags = ("--config", str(folder), "--host", "0.0.0.0", "--port", str(free_port()), "--model", "open-model")
    program = Program(*flags, env={"LLAMAFORGE_OWNER_PASSWORD": PASSPHRASE})
    program.wait_until_up()
    url = f"http://127.0.0.1:{flags[5]}"
    guest = Guest(url)
    until(lambda: "lf-ready" in guest.call("look"))
    number = guest.number("chat")
    for session in range(1000):
        body = {"data": ["Hello"], "fn_index": number, "session_hash": f"session {session}"}
        guest.http.post("/gradio_api/queue/join", json=body)
    assert "Many people are chatting right now. Wait " in guest.join(number, "Hello")
    owner = Guest(f"{url}/owner", "the owner", Cookie=f"{COOKIE}={log_in(url).cookies[COOKIE]}")
    assert "Still here" in owner.join("chat", "Still here")
    assert program.stop() == 0
    assert "Traceback" not in program.output
