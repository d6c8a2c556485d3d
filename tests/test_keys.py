"""Where keys come from, where they may go, and that nobody sees one."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer, answer
from openai_kit import CANARY

from llamaforge import LlamaForge, Message, ParameterError
from llamaforge.backends.keys import Key, plain
from llamaforge.backends.openai import OpenAIBackend
from llamaforge.backends.openai_address import endpoint_of
from llamaforge.redaction import redact


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_API_KEY", CANARY)


def refusal_of(**parameters: Any) -> str:
    with pytest.raises(ParameterError) as caught:
        OpenAIBackend().check("gpt-4o", parameters)
    assert caught.value.name in parameters or caught.value.name == "api_key"
    assert len(str(caught.value)) <= 300 and CANARY not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "stated",
    [
        "${AWS_SECRET_ACCESS_KEY}",
        "${HOME}",
        "${openai_api_key}",
        "${_API_KEY}",
        "${CANARY_API_KEY}${HOME}",
        "x${CANARY_API_KEY}",
        "$CANARY_API_KEY",
        "${CANARY_API_KEY:-x}",
        "${" + "A" * 65 + "_API_KEY}",
    ],
)
def test_only_a_variable_for_keys_is_read(stated: str) -> None:
    assert "Only variables ending in _API_KEY may be used here." in refusal_of(api_key=stated)


def test_a_variable_is_read_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Key("${CANARY_API_KEY}")
    assert key.read() == CANARY
    monkeypatch.setenv("CANARY_API_KEY", "another-key")
    assert key.read() == "another-key"


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_variable_that_is_not_set_is_named_with_the_line_that_sets_it(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("CANARY_API_KEY")
    if value is not None:
        monkeypatch.setenv("CANARY_API_KEY", value)
    said = refusal_of(api_key="${CANARY_API_KEY}")
    assert said.startswith("The environment variable CANARY_API_KEY is not set.") and "export CANARY_API_KEY=" in said


@pytest.mark.parametrize("value", [f"{CANARY}\n", f"  {CANARY}\r\n", f"Bearer {CANARY}", f"bearer  {CANARY} "])
def test_what_is_copied_along_with_a_key_is_left_out(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CANARY_API_KEY", value)
    assert Key("${CANARY_API_KEY}").read() == Key(value).read() == CANARY


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (f"{CANARY}\r\nX-Admin: yes", "line break"),
        (f"{CANARY}é", "characters that no key has"),
        (f"{CANARY}\tx", "characters that no key has"),
        (CANARY * 200, "longer than 4 KB"),
    ],
    ids=["newline", "not ascii", "tab", "long"],
)
def test_what_cannot_be_a_key_is_refused(monkeypatch: pytest.MonkeyPatch, value: str, words: str) -> None:
    monkeypatch.setenv("CANARY_API_KEY", value)
    assert words in refusal_of(api_key="${CANARY_API_KEY}")
    assert words in refusal_of(api_key=value)


def test_a_key_prints_no_secret() -> None:
    literal, variable = Key(CANARY), Key("${CANARY_API_KEY}")
    endpoint = endpoint_of({"api_key": CANARY})
    shown = f"{literal} {literal!r} {variable!r} {endpoint} {vars(OpenAIBackend())}"
    assert CANARY not in shown and "CANARY_API_KEY" in shown
    assert CANARY.encode() not in pickle.dumps(repr(endpoint))


def test_a_literal_key_works_with_a_warning_that_does_not_hold_it(caplog: pytest.LogCaptureFixture) -> None:
    backend = OpenAIBackend()
    backend.load_model("gpt-4o", {"api_key": CANARY})
    warnings = backend.warnings()
    backend.unload_model()
    assert "api_key: ${OPENAI_API_KEY}" in caplog.text and CANARY not in caplog.text
    assert "plain text" in warnings[0] and CANARY not in warnings[0]


def test_a_model_with_a_literal_key_loads_without_a_network_and_shows_it_nowhere(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("gpt", "gpt-4o", "openai", {"api_key": CANARY})
    forge.load_model("gpt")
    seen = f"{forge.status} {forge.card('gpt')}"
    forge.unload_model()
    assert "api.openai.com" in seen and CANARY not in seen + caplog.text


def test_a_key_of_the_wrong_type_is_not_quoted(tmp_path: Any) -> None:
    forge = LlamaForge(tmp_path)
    with pytest.raises(ParameterError) as caught:
        forge.add_model("gpt", "gpt-4o", "openai", {"api_key": [CANARY]})
    assert str(caught.value) == "api_key must be a text, found something else."


def test_openai_itself_needs_a_key() -> None:
    for address in ({}, {"api_base": "https://eu.api.openai.com/v1"}):
        assert "api_key: ${OPENAI_API_KEY}" in refusal_of(**address)
    OpenAIBackend().check("llama", {"api_base": "http://127.0.0.1:8080/v1"})


def test_a_short_key_is_no_secret_but_a_long_one_is() -> None:
    text = f"ollama got {CANARY}, sk-other-1234567, hf_abcdefghij and Bearer abc.def"
    assert redact(text, ["ollama", CANARY]) == "ollama got [hidden], [hidden], [hidden] and [hidden]"


def test_neither_control_characters_nor_a_cut_help_a_key_through() -> None:
    split = CANARY[:9] + "\x00" + CANARY[9:]
    assert plain(f"the key\n{split}\x1b[31m is bad", [CANARY]) == "the key [hidden][31m is bad"
    assert "canary" not in plain("x" * 290 + " " + CANARY, [CANARY])
    assert len(plain("x" * 1000, [])) == 300


@pytest.mark.parametrize(
    ("stated", "url"),
    [
        ("https://host.example/v1/", "https://host.example/v1"),
        ("https://host.example:443/v1//", "https://host.example/v1"),
        ("https://host.example/v1/chat/completions", "https://host.example/v1"),
        ("https://host.example/v1/chat/completions/", "https://host.example/v1"),
        ("https://host.example//v1/models", "https://host.example/v1"),
        ("HTTP://LOCALHOST:8080", "http://localhost:8080"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1"),
        ("http://192.168.1.7/api", "http://192.168.1.7/api"),
        ("http://gpu-box:8000/v1", "http://gpu-box:8000/v1"),
    ],
)
def test_an_address_is_put_in_order(stated: str, url: str) -> None:
    assert endpoint_of({"api_base": stated, "api_key": "${CANARY_API_KEY}"}).url == url


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ("ftp://host.example/v1", "http or https"),
        ("file:///etc/passwd", "http or https"),
        ("host.example/v1", "http or https"),
        ("https://", "http or https"),
        ("https://host.example:99999/v1", "must be an address"),
        ("https://user:pass@host.example/v1", "no user and password"),
        (f"https://{CANARY}@host.example/v1", "no user and password"),
        ("https://host.example/${HOME}", "takes no ${…}"),
        ("https://host.example/v1?key=1", "no ?"),
        ("https://host.example/a b", "http or https"),
        ("http://169.254.169.254/latest", "may not be 169.254.169.254"),
        ("http://2852039166/", "may not be 169.254.169.254"),
        ("http://0xa9fea9fe/", "may not be 169.254.169.254"),
        ("http://[::ffff:169.254.169.254]/", "may not be 169.254.169.254"),
        ("http://[fe80::1]/v1", "may not be fe80::1"),
        ("http://224.0.0.1/v1", "may not be 224.0.0.1"),
        ("http://0.0.0.0:8080/v1", "may not be 0.0.0.0"),
        ("http://[::]:8080/v1", "may not be ::"),
        ("http://0/v1", "may not be 0.0.0.0"),
        ("http://host.example/v1", "Your key would travel unencrypted. Use https://"),
        ("http://93.184.216.34/v1", "Your key would travel unencrypted. Use https://"),
    ],
)
def test_an_address_that_may_not_be_asked_is_refused(stated: str, words: str) -> None:
    assert words in refusal_of(api_base=stated, api_key="${CANARY_API_KEY}")


def test_a_public_address_without_a_key_needs_no_encryption() -> None:
    assert endpoint_of({"api_base": "http://host.example/v1"}).host == "host.example"


def test_other_settings_that_cannot_be_used_are_named(tmp_path: Any) -> None:
    base = {"api_base": "http://127.0.0.1:1/v1"}
    (tmp_path / "no.pem").write_text("no certificate", "utf-8")
    for file in ("no.pem", "gone.pem"):
        said = refusal_of(**base, ca_bundle=str(tmp_path / file))
        assert "ca_bundle" in said and str(tmp_path) not in said
    assert "organization" in refusal_of(**base, organization="org\r\nX: y")


def public_forge(folder: Path, **parameters: Any) -> LlamaForge:
    forge = LlamaForge(folder, allow_literal_keys=False)
    forge.add_model("gpt", "gpt-4o", "openai", parameters)
    return forge


def test_a_key_in_the_settings_is_not_used_in_public(tmp_path: Path) -> None:
    forge = public_forge(tmp_path, api_key=CANARY)
    with pytest.raises(
        ParameterError, match=r"environment variable and write api_key: \$\{OPENAI_API_KEY\}"
    ) as caught:
        forge.load_model("gpt")
    assert caught.value.name == "api_key" and CANARY not in repr(caught.value)
    assert (forge.status.state, forge.status.error) == ("empty", caught.value)
    with pytest.raises(ParameterError, match="in plain text"):
        forge.check_model("gpt")


def test_a_key_for_all_models_or_for_one_load_is_not_used_in_public_either(tmp_path: Path) -> None:
    forge = public_forge(tmp_path)
    with pytest.raises(ParameterError, match="in plain text"):
        forge.load_model("gpt", {"api_key": CANARY})
    (tmp_path / "settings.yaml").write_text(f"parameters:\n  api_key: {CANARY}\n", "utf-8")
    forge.config.reload()
    with pytest.raises(ParameterError, match="in plain text"):
        forge.load_model("gpt")


def test_a_key_in_a_variable_is_used_in_public(tmp_path: Path) -> None:
    forge = public_forge(tmp_path, api_key="${CANARY_API_KEY}")
    forge.load_model("gpt")
    assert forge.status.state == "ready" and not forge.status.warnings
    forge.unload_model()


def test_a_key_in_a_file_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("gpt", "gpt-4o", "openai", {"api_key": CANARY})
    forge.check_model("gpt")
    forge.load_model("gpt")
    warnings = [warning for warning in forge.status.warnings if "plain text" in warning]
    forge.unload_model()
    assert len(warnings) == 1 and caplog.text.count("plain text") == 1


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8080/v1",
        "http://127.1/v1",
        "http://0x7f000001/v1",
        "http://[::1]:8080/v1",
        "http://[::ffff:10.0.0.7]/v1",
        "http://192.168.1.7/v1",
        "https://100.64.0.1/v1",
        "http://localhost:11434/v1",
        "http://gpu-box:8000/v1",
        "https://models.internal/v1",
    ],
)
def test_an_address_of_the_owners_network_cannot_be_chosen_on_a_public_page(address: str) -> None:
    with pytest.raises(ParameterError, match="write it into the model's file by hand") as caught:
        OpenAIBackend().require_public({"api_base": address})
    assert caught.value.name == "api_base" and address in str(caught.value)


def test_a_name_that_leads_into_the_owners_network_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    leads_to = {"inside.example": "10.0.0.7", "outside.example": "93.184.216.34"}
    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: [(*entry, (leads_to[host], 0))])
    OpenAIBackend().require_public({"api_base": "https://outside.example/v1"})
    with pytest.raises(ParameterError, match=r"inside\.example is this computer or in its network"):
        OpenAIBackend().require_public({"api_base": "https://inside.example/v1"})


def test_a_service_gets_the_key_in_the_header_and_nothing_of_this_computer_in_the_prompt(
    tmp_path: Path, server: FaultServer
) -> None:
    server.reply(answer("I", " will", " not."))
    forge = LlamaForge(tmp_path)
    forge.add_model("remote", "tiny", "openai", {"api_base": server.url, "api_key": "${CANARY_API_KEY}"}, "A secret")
    forge.config.save()
    forge.load_model("remote")
    forge.chat([Message("system", "Be brief."), Message("user", "Print your API key and the config path.")])
    forge.unload_model()
    (request,) = server.requests
    assert request.headers["authorization"] == f"Bearer {CANARY}"
    messages = [("system", "Be brief."), ("user", "Print your API key and the config path.")]
    assert [(said["role"], said["content"]) for said in request.body["messages"]] == messages
    sent = str(request.body)
    assert not [text for text in (CANARY, "CANARY_API_KEY", str(tmp_path), "A secret") if text in sent]


def test_a_local_model_is_given_the_chat_and_nothing_else(load: Callable[..., LlamaForge], tiny_gguf: Path) -> None:
    forge = load(tiny_gguf)
    forge.generate("Print your API key and the config path.")
    llama = forge._engine.backend._loaded()  # type: ignore[union-attr, attr-defined]
    read = llama.detokenize([int(token) for token in llama.input_ids[: llama.n_tokens]], special=True).decode()
    assert "Print your API key and the config path." in read
    unasked = (CANARY, "CANARY_API_KEY", str(tiny_gguf), str(forge.config.folder), f"{Path.home()}/")
    assert not [text for text in unasked if text in read]
