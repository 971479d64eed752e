"""Requests to addresses that clients have named: never into the operator's own networks, unless that is allowed."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

import certifi
import httpx

from tunesmith.core.errors import ConfigError

TIMEOUT = 10.0  # seconds of each part of a request
WRAPPED = ip_network("64:ff9b::/96")  # an IPv4 address behind a translator


def refuse_address(url: str, private: bool) -> SplitResult:
    """The parts of an address that requests may be sent to.

    Args:
        url: as a client has named it.
        private: whether it may be without TLS, and in networks of the operator's own.

    Raises:
        ConfigError: it is none.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("not an address.") from None
    if parts.scheme not in (("http", "https") if private else ("https",)) or not host:
        raise ConfigError("must begin with https://, and name a host.")
    if parts.username or parts.password:
        raise ConfigError("must hold no user and no password.")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError("must be in ASCII, without spaces.")
    return parts


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is somewhere in the internet, also by what it wraps."""
    if isinstance(address, IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if address in WRAPPED:
            inside = IPv4Address(int(address) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(inside)
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


def addresses_of(host: str, port: int, private: bool) -> list[str]:
    """Where a host is.

    Raises:
        ConfigError: its name is unknown, or one of its addresses is not public.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ConfigError(f"{host}: this name is not known.") from None
    addresses = list(dict.fromkeys(str(one[4][0]).partition("%")[0] for one in found))
    if not private and not all(is_public(ip_address(address)) for address in addresses):
        raise ConfigError(f"{host}: it is in a network of this server's own, which only its operator can allow.")
    return addresses


def post(url: str, body: bytes, headers: Mapping[str, str], private: bool) -> int:
    """Send a body and return the status of the answer, which is not read; a redirection is one, and is not followed.

    The connection goes to the address that was looked at, whatever its name means a moment later; the certificate must
    be the name's, by an authority of certifi's or of the file that `SSL_CERT_FILE` names.

    Raises:
        ConfigError: it may not be sent there.
        OSError: it was not taken.
    """
    parts = refuse_address(url, private)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    address = addresses_of(host, port, private)[0]
    where = httpx.URL(url).copy_with(host=address)
    sent = {**headers, "Host": parts.netloc}
    trusted = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
    try:
        with (
            httpx.Client(timeout=TIMEOUT, trust_env=False, verify=trusted) as client,
            client.stream("POST", where, content=body, headers=sent, extensions={"sni_hostname": host}) as answer,
        ):
            return answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OSError(str(error) or type(error).__name__) from None
