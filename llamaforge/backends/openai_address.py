"""Where a service is: its address, checked before anything is sent there, and what may be said of it."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ..errors import ParameterError
from .keys import Key

DEFAULT_ADDRESS = "https://api.openai.com/v1"
DEFAULT_TIMEOUT = 60.0
DEFAULT_PARALLEL = 4

_NEAR = (".local", ".lan", ".home", ".internal", ".home.arpa", ".localhost")
_OVERLAPPING_PATHS = re.compile(r"/(?:chat/completions|completions|chat|models)$")

Network = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A service and how to speak to it; prints no key."""

    url: str
    host: str  # for people, with its port where that is not the usual one
    key: Key
    organization: str | None = None
    timeout: float = DEFAULT_TIMEOUT
    parallel: int = DEFAULT_PARALLEL
    ca_bundle: str | None = field(default=None, repr=False)

    @property
    def is_openai(self) -> bool:
        """Whether it is OpenAI's own service, which takes no parameters but its own."""
        return _is_openai(urlsplit(self.url).hostname or "")

    @property
    def proxy(self) -> str | None:
        """The proxy on the way there, without its user and password."""
        parts = urlsplit(self.url)
        if urllib.request.proxy_bypass(parts.hostname or ""):
            return None
        proxies = urllib.request.getproxies()
        found = proxies.get(parts.scheme) or proxies.get("all")
        if not found:
            return None
        proxy = urlsplit(found if "://" in found else f"http://{found}")
        return f"{proxy.scheme}://{proxy.netloc.rpartition('@')[2]}"


def endpoint_of(parameters: Mapping[str, Any]) -> Endpoint:
    """Return the endpoint that a model's parameters describe, without asking it anything.

    Raises:
        ParameterError: the address, the key or another of them cannot be used; says which and why.
    """
    key = Key(parameters.get("api_key"))
    url, host = _address(parameters.get("api_base") or DEFAULT_ADDRESS, key)
    if _is_openai(urlsplit(url).hostname or "") and not key.is_set:
        raise ParameterError(
            f"{host} needs a key. Add to the model's parameters: api_key: ${{OPENAI_API_KEY}}", name="api_key"
        )
    key.read()
    endpoint = Endpoint(
        url,
        host,
        key,
        _organization(parameters.get("organization")),
        float(parameters.get("timeout") or DEFAULT_TIMEOUT),
        int(parameters.get("parallel") or DEFAULT_PARALLEL),
        parameters.get("ca_bundle") or None,
    )
    tls_context(endpoint)
    return endpoint


def require_public(api_base: str | None) -> None:
    """Raise where an address leads to this computer or its network, as who uses a public page may not choose one.

    What a name leads to is asked of the network. A model's own file may name such an address.

    Raises:
        ParameterError: it does, or is no address at all.
    """
    if not api_base:
        return
    host = _parsed(api_base).hostname or ""
    address = _literal_address(host)
    if _is_near(host, address) or not all(each.is_global for each in ([address] if address else _addresses(host))):
        raise _problem(
            f"{host} is this computer or in its network, which a public page does not ask. "
            f"To use it, write it into the model's file by hand: api_base: {api_base}"
        )


def _addresses(host: str) -> list[Network]:
    """Return what a name leads to; nothing where it is not known, as nothing can be asked there either."""
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []
    return [address for address in map(_literal_address, found) if address is not None]


def tls_context(endpoint: Endpoint) -> ssl.SSLContext | None:
    """Return what checks the server's certificate where a `ca_bundle` is to be trusted too, else None.

    Raises:
        ParameterError: the file cannot be read, or holds no certificates.
    """
    if endpoint.ca_bundle is None:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(endpoint.ca_bundle)
    except OSError as error:  # ssl.SSLError is one
        raise ParameterError(
            "ca_bundle names a file that is missing or holds no certificates in PEM form.", name="ca_bundle"
        ) from error
    return context


def _organization(text: str | None) -> str | None:
    if text and not (text.isascii() and text.isprintable()):
        raise ParameterError("organization must be plain letters and digits, such as org-1234.", name="organization")
    return text.strip() if text else None


def _address(text: str, key: Key) -> tuple[str, str]:
    """Return the normalised address and the host as people know it."""
    parts = _parsed(text)
    host = parts.hostname or ""
    address = _literal_address(host)
    if address is not None:
        _require_usable(address)
    if parts.scheme == "http" and key.is_set and not _is_near(host, address):
        raise _problem("Your key would travel unencrypted. Use https:// in api_base.")
    path = re.sub(r"/{2,}", "/", parts.path).rstrip("/")
    while (shorter := _OVERLAPPING_PATHS.sub("", path)) != path:
        path = shorter
    netloc = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}[parts.scheme]
    netloc += f":{parts.port}" if parts.port not in (None, usual) else ""
    return f"{parts.scheme}://{netloc}{path}", netloc


def _parsed(text: str) -> SplitResult:
    text = text.strip()
    if "${" in text:
        raise _problem("api_base takes no ${…}; only api_key does. Write the address itself.")
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise _problem(f"api_base must be an address such as {DEFAULT_ADDRESS}.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable() or " " in text:
        raise _problem(f"api_base must be an http or https address such as {DEFAULT_ADDRESS}.")
    if parts.username is not None or parts.password is not None:
        raise _problem("api_base may hold no user and password. Put the key into api_key.")
    if parts.query or parts.fragment:
        raise _problem("api_base may hold no ? and no #. It usually ends in /v1.")
    return parts


def _literal_address(host: str) -> Network | None:
    """Return the address that a host spells in any of the ways a resolver takes: 127.1, 0x7f000001, 2130706433."""
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _require_usable(address: Network) -> None:
    nowhere = address.is_unspecified or (address.version == 4 and int(address) < 2**24)
    if address.is_link_local or address.is_multicast or nowhere:
        raise _problem(f"api_base may not be {address}: no model service is there. For this machine use 127.0.0.1.")


def _is_near(host: str, address: Network | None) -> bool:
    if address is not None:
        return address.is_private or address.is_loopback
    return "." not in host.rstrip(".") or host.rstrip(".").endswith(_NEAR)


def _is_openai(host: str) -> bool:
    return f".{host.rstrip('.')}".endswith(".openai.com")


def _problem(sentence: str) -> ParameterError:
    return ParameterError(sentence, name="api_base")
