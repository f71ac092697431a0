"""Connections against a server that plays out every byte: what is read, what is refused, and by which way it came."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

import pytest

from finemem_jax.chat import connection
from finemem_jax.chat.connection import Broken, CannotConnect, TooLong, connect, parse_address

PEM = Path(__file__).with_name("localhost.pem")  # a key and its own certificate for "localhost", for these tests alone


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Head and body of a request; b"" at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    _, _, rest = head.lower().partition(b"content-length:")
    return head + (await reader.readexactly(int(rest.partition(b"\r\n")[0])) if rest else b"")


@contextlib.asynccontextmanager
async def serving(answers: list[bytes], *, secure: bool = False):
    """(port, requests as they come) of a server that gives each connection these answers, one to a request. Behind an
    empty line, "tunnel" in an answer, TLS begins."""
    seen: list[bytes] = []
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(PEM)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            request = await read_request(reader)
            if not request:
                break
            seen.append(request)
            writer.write(answer)
            if b"tunnel" in answer:
                await writer.start_tls(tls)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls if secure else None)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


async def post(url: str, times: int = 1) -> list:
    """What came of each POST over one connection."""
    found: list = []
    link = await connect(parse_address(url), 10.0)
    try:
        for _ in range(times):
            found.append(await link.post([("Host", "h"), ("Content-Length", "2")], b"{}", 1000))
    except (Broken, TooLong) as error:
        found.append(error)
    finally:
        link.close()
    return found


async def posted(answers: list[bytes], *, host: str = "http://127.0.0.1", times: int = 1, secure: bool = False):
    async with serving(answers, secure=secure) as (port, seen):
        return await post(f"{host}:{port}/v1", times), seen


def whole(body: bytes, head: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


def test_requests_follow_each_other_on_one_connection():
    found, seen = asyncio.run(posted([whole(b"one", b"Retry-After: 7\r\n"), whole(b"two")], times=2))
    assert [(r.status, r.body) for r in found] == [(200, b"one"), (200, b"two")]
    assert found[0].headers["retry-after"] == "7"
    assert [request.partition(b"\r\n")[0] for request in seen] == [b"POST /v1 HTTP/1.1"] * 2


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" + whole(b"a"), b"a"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"abc"),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", b"to the end"),
    ],
)
def test_a_body_may_come_in_any_form_of_the_protocol(answer, body):
    (response,), _ = asyncio.run(posted([answer]))
    assert response.body == body


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", Broken),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", Broken),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Broken),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Broken),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, Broken),
        (whole(b"x" * 1001), TooLong),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 3000, TooLong),
    ],
)
def test_what_is_no_whole_response_is_told_apart(answer, kind):
    (error,), _ = asyncio.run(posted([answer]))
    assert isinstance(error, kind)


@pytest.fixture
def own_certificate(monkeypatch):
    """The certificate of these tests is one that is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    connection._tls.cache_clear()
    yield
    connection._tls.cache_clear()


def test_a_server_whose_certificate_is_trusted_is_spoken_to(own_certificate):
    (response,), _ = asyncio.run(posted([whole(b"a")], host="https://localhost", secure=True))
    assert response.body == b"a"


def test_a_server_that_cannot_prove_who_it_is_is_not_spoken_to(monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    connection._tls.cache_clear()
    with pytest.raises(CannotConnect, match="SSLCertVerificationError"):
        asyncio.run(posted([whole(b"a")], host="https://localhost", secure=True))


def by_proxy(monkeypatch, answers: list[bytes], url: str):
    """(what came of a POST, what the proxy saw) where all ways lead through a proxy."""

    async def play():
        async with serving(answers) as (port, seen):
            for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
                monkeypatch.setenv(name, f"http://me:pass@127.0.0.1:{port}")
            for name in ("no_proxy", "NO_PROXY"):
                monkeypatch.delenv(name, raising=False)
            return await post(url), seen

    return asyncio.run(play())


def test_a_proxy_is_asked_for_the_whole_url(monkeypatch):
    (response,), (request,) = by_proxy(monkeypatch, [whole(b"a")], "http://far.away:81/v1")
    assert response.body == b"a" and request.startswith(b"POST http://far.away:81/v1 HTTP/1.1\r\n")
    assert parse_address("http://far.away:81/v1").proxy_key == "Basic bWU6cGFzcw=="


def test_a_proxy_carries_what_it_cannot_read(monkeypatch, own_certificate):
    answers = [b"HTTP/1.1 200 tunnel\r\n\r\n", whole(b"a")]
    (response,), (first, second) = by_proxy(monkeypatch, answers, "https://localhost:4443/v1")
    assert first.startswith(b"CONNECT localhost:4443 HTTP/1.1\r\n") and b"Proxy-Authorization: Basic " in first
    assert response.body == b"a" and second.startswith(b"POST /v1 ") and b"Proxy-" not in second


def test_a_proxy_that_refuses_is_nobody_at_the_address(monkeypatch):
    with pytest.raises(CannotConnect):
        by_proxy(monkeypatch, [b"HTTP/1.1 407 no\r\n\r\n"], "https://localhost:4443/v1")


def test_what_needs_no_proxy_is_reached_without(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://nobody.there")
    monkeypatch.setenv("no_proxy", "far.away")
    assert parse_address("http://far.away/v1").proxy is None
    assert parse_address("http://else.where/v1").proxy == ("nobody.there", 80)


@pytest.mark.parametrize(
    ("url", "host", "port", "target", "shown"),
    [
        ("http://h/v1", "h", 80, "/v1", "h"),
        ("https://h:8/a b/ü", "h", 8, "/a%20b/%C3%BC", "h:8"),
        ("http://[::1]:8000", "::1", 8000, "/", "[::1]:8000"),
        ("http://bücher.example/v1", "xn--bcher-kva.example", 80, "/v1", "xn--bcher-kva.example"),
    ],
)
def test_addresses(monkeypatch, url, host, port, target, shown):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = parse_address(url)
    assert (found.host, found.port, found.target, found.host_header) == (host, port, target, shown)
