"""A service that cannot be reached: wrong address, no network, proxies and certificates."""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from fault_server import FaultServer, answer, http
from openai_kit import Connect, ask, require_plain

from llamaforge import LlamaForgeError, ServiceUnreachable

# No connection


def test_a_port_where_nobody_listens_is_said(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for host in ("127.0.0.1", "localhost"):
        done = ask(connect(f"http://{host}:{port}/v1"))
        assert f"Nothing answers at {host}:{port}. Is the server running there?" == require_plain(done.error)


def test_a_name_that_nobody_knows_is_said(connect: Connect) -> None:
    said = require_plain(ask(connect("https://127.nowhere.invalid/v1")).error)
    assert said == "The name 127.nowhere.invalid is not known. Check api_base and your network."


def test_a_connection_that_is_never_made_ends_after_the_timeout(connect: Connect) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        others = [socket.socket() for _ in range(4)]
        for other in others:
            other.setblocking(False)
            other.connect_ex(("127.0.0.1", port))
        done = ask(connect(f"http://127.0.0.1:{port}/v1", timeout=0.5))
        for other in others:
            other.close()
    assert "could not be reached within 1 second" in require_plain(done.error)


def test_a_broken_proxy_is_named_without_its_password(
    server: FaultServer, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://me:s3cret@127.0.0.1:{port}")
    said = require_plain(ask(connect(server.url)).error)
    assert f"via the proxy http://127.0.0.1:{port}." in said and "s3cret" not in said + caplog.text
    monkeypatch.setenv("http_proxy", f"http://me:s3cret@{server.host}")
    server.reply(http(502, "<html>bad gateway</html>", "text/html"))
    said = require_plain(ask(connect("http://127.0.0.1:9/v1")).error)
    assert f"(502). Try again in a minute. via the proxy http://{server.host}" in said or "via the proxy" in said
    assert "s3cret" not in said + caplog.text


def test_a_proxy_that_makes_no_sense_is_said_at_loading(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks9://me:s3cret@127.0.0.1:9")
    with pytest.raises(LlamaForgeError, match="Check the proxy's environment variables") as caught:
        connect("http://127.0.0.1:9/v1")
    assert "s3cret" not in require_plain(caught.value)


# Encryption


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


def tls_server(certificate: trustme.LeafCert, **limits: Any) -> FaultServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    for name, value in limits.items():
        setattr(context, name, value)
    server = FaultServer(context)
    server.reply(answer("Hi"))
    return server


def test_a_certificate_of_a_trusted_authority_is_accepted(
    authority: trustme.CA, bundle: str, connect: Connect
) -> None:
    server = tls_server(authority.issue_cert("127.0.0.1"))
    assert ask(connect(server.url, ca_bundle=bundle)).text == "Hi"
    server.close()


def certificates(authority: trustme.CA) -> Iterator[tuple[trustme.LeafCert, bool, str]]:
    """Yield certificates, whether their authority is trusted, and what is wrong with them."""
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    year = datetime.timedelta(days=365)
    yield authority.issue_cert("127.0.0.1", not_before=long_ago, not_after=long_ago + year), True, "has expired"
    yield authority.issue_cert("other.example"), True, "is for another host"
    yield authority.issue_cert("127.0.0.1"), False, "nobody known has signed it"


@pytest.mark.parametrize("number", range(3), ids=["expired", "wrong host", "unknown authority"])
def test_a_bad_certificate_is_refused_with_the_reason(
    authority: trustme.CA, bundle: str, connect: Connect, number: int
) -> None:
    certificate, trusted, reason = list(certificates(authority))[number]
    server = tls_server(certificate)
    done = ask(connect(server.url, ca_bundle=bundle if trusted else None))
    server.close()
    said = require_plain(done.error)
    assert f"The certificate of {server.host} is not accepted" in said and reason in said
    assert isinstance(done.error, ServiceUnreachable) and server.requests == []


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_outdated_encryption_is_refused(authority: trustme.CA, bundle: str, connect: Connect) -> None:
    server = tls_server(authority.issue_cert("127.0.0.1"), maximum_version=ssl.TLSVersion.TLSv1_1)
    said = require_plain(ask(connect(server.url, ca_bundle=bundle)).error)
    server.close()
    assert "outdated encryption" in said or "No secure connection" in said


def test_https_to_a_port_that_speaks_http_is_said(server: FaultServer, connect: Connect) -> None:
    server.reply(answer("Hi"))
    said = require_plain(ask(connect(server.url.replace("http:", "https:"))).error)
    assert said == f"{server.host} does not speak https. Check the port, or write http:// in api_base."
