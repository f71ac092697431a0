"""One HTTP/1.1 connection to a server, kept open from request to request: asyncio's streams, and h11 for the protocol.

A general client looks through its whole pool at every request, which costs more than all else at 64 connections. Here
whoever sends a request holds the connection it is sent on, and nothing is searched.

Certificates are checked against certifi's list, or that of SSL_CERT_FILE. A proxy is used as the environment says
(HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import os
import ssl
import urllib.parse
import urllib.request
from dataclasses import dataclass

import certifi
import h11

_READ = 1 << 16  # bytes asked of the socket at once
_IN_A_TARGET = "%/:=&?~#+!$,;'@()*[]-._"  # what stays as it is in the path of a URL


class CannotConnect(Exception):
    """There is nobody at the address, or somebody who cannot prove to be it."""


class Broken(Exception):
    """The connection ended, or what came is no HTTP, before the response was whole."""


class TooLong(Exception):
    """The body is longer than was allowed for."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where requests go."""

    host: str
    port: int
    target: str  # what stands in the request line
    is_secure: bool
    host_header: str
    proxy: tuple[str, int] | None = None
    proxy_key: str = ""  # what the proxy wants to see, "Basic …"

    @property
    def goes_by_proxy(self) -> bool:
        """Whether the proxy reads the requests, and not only carries them."""
        return self.proxy is not None and not self.is_secure


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


def parse_address(url: str) -> Address:
    """The address of an http(s) URL. Raises ValueError, with what is wrong about it, when it is none."""
    if not url.isprintable():
        raise ValueError("holds characters that no URL has")
    parsed = urllib.parse.urlsplit(url)
    if parsed.scheme not in ("http", "https") or not parsed.hostname:
        raise ValueError("must start with http:// or https:// and name a host")
    if parsed.username is not None or parsed.password is not None:
        raise ValueError("holds a password: a key belongs into the environment, never into a config")
    if parsed.query or parsed.fragment:
        raise ValueError("holds a ? or #, behind which nothing can be added: give the base URL alone")
    host, is_secure = _plain_host(parsed.hostname), parsed.scheme == "https"
    port = parsed.port or (443 if is_secure else 80)
    shown = f"[{host}]" if ":" in host else host
    host_header = shown if parsed.port is None else f"{shown}:{port}"
    target = urllib.parse.quote(parsed.path, safe=_IN_A_TARGET) or "/"
    proxy, proxy_key = _proxy_of(parsed.scheme, f"{host}:{port}")
    if proxy is not None and not is_secure:
        target = f"http://{host_header}{target}"
    return Address(host, port, target, is_secure, host_header, proxy, proxy_key)


def _plain_host(host: str) -> str:
    """The host in ASCII. Raises ValueError where it has no such form."""
    plain = host if host.isascii() else host.encode("idna").decode("ascii")
    if any(c.isspace() or not c.isprintable() for c in plain):
        raise ValueError("names no host")
    return plain


def _proxy_of(scheme: str, host: str) -> tuple[tuple[str, int] | None, str]:
    """The proxy that the environment names for a host, and its key."""
    proxies = urllib.request.getproxies()
    url = proxies.get(scheme) or proxies.get("all")
    if not url or urllib.request.proxy_bypass(host):
        return None, ""
    parsed = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
    if parsed.scheme != "http" or not parsed.hostname:
        raise ValueError(f"would be reached through a proxy of kind {parsed.scheme}: only http:// proxies are known")
    if parsed.username is None:
        return (parsed.hostname, parsed.port or 80), ""
    pair = f"{urllib.parse.unquote(parsed.username)}:{urllib.parse.unquote(parsed.password or '')}"
    return (parsed.hostname, parsed.port or 80), f"Basic {base64.b64encode(pair.encode()).decode()}"


class Connection:
    """An open connection. `post` sends one request and reads its response; never two at a time."""

    def __init__(self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._address, self._reader, self._writer = address, reader, writer
        self._state = h11.Connection(h11.CLIENT)

    @property
    def is_usable(self) -> bool:
        """Whether another request can be sent: the last response was whole, and the server has not hung up."""
        return self._state.our_state is h11.IDLE and not self._reader.at_eof() and not self._writer.is_closing()

    async def post(self, headers: list[tuple[str, str]], body: bytes, most: int) -> Response:
        """The response to a POST, with a body of at most `most` bytes. Raises Broken and TooLong, and then the
        connection is of no more use."""
        request = h11.Request(method="POST", target=self._address.target, headers=headers)
        try:
            sent = self._state.send(request) + self._state.send(h11.Data(data=body))
            self._state.send(h11.EndOfMessage())
            self._writer.write(sent)
            response: h11.Response | None = None
            parts, length = [], 0
            while True:
                event = await self._next_event()
                if isinstance(event, h11.Response):
                    response = event
                elif isinstance(event, h11.Data):
                    parts.append(event.data)
                    length += len(event.data)
                    if length > most:
                        raise TooLong
                elif isinstance(event, h11.EndOfMessage):
                    break
        except (h11.RemoteProtocolError, OSError) as error:
            raise Broken(type(error).__name__) from error
        if self._state.our_state is h11.DONE and self._state.their_state is h11.DONE:
            self._state.start_next_cycle()
        assert response is not None  # h11 lets no message end before it began
        named = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
        return Response(response.status_code, named, b"".join(parts))

    async def tunnel(self, headers: list[tuple[str, str]]) -> None:
        """Asks a proxy for a way through to the address. Raises OSError where it grants none."""
        target = f"{self._address.host}:{self._address.port}"
        self._writer.write(self._state.send(h11.Request(method="CONNECT", target=target, headers=headers)))
        self._state.send(h11.EndOfMessage())
        while not isinstance(event := await self._next_event(), h11.Response):
            pass
        if event.status_code != 200:
            raise OSError(f"the proxy answered HTTP {event.status_code}")
        await self._writer.start_tls(_tls(), server_hostname=self._address.host)
        self._state = h11.Connection(h11.CLIENT)

    def close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # it may be closed already, and its loop with it
            self._writer.close()

    async def _next_event(self) -> h11.Event:
        while (event := self._state.next_event()) is h11.NEED_DATA:
            self._state.receive_data(await self._reader.read(_READ))
        if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError("closed before the response")
        return event


async def connect(address: Address, seconds: float) -> Connection:
    """A new connection. Raises CannotConnect when it does not stand within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            host, port = address.proxy or (address.host, address.port)
            is_direct = address.proxy is None and address.is_secure
            # The delay: a host of two addresses, one of which nobody answers at, is reached at the other.
            reader, writer = await asyncio.open_connection(
                host, port, ssl=_tls() if is_direct else None, happy_eyeballs_delay=0.25
            )
            connection = Connection(address, reader, writer)
            if address.proxy is not None and address.is_secure:
                key = [("Proxy-Authorization", address.proxy_key)] if address.proxy_key else []
                try:
                    await connection.tunnel([("Host", f"{address.host}:{address.port}"), *key])
                except BaseException:
                    connection.close()
                    raise
            return connection
    except (OSError, h11.RemoteProtocolError, UnicodeError) as error:  # a timeout is an OSError too
        raise CannotConnect(type(error).__name__) from error


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
