"""A model behind any OpenAI-compatible server: chat (`POST URL/chat/completions`), or a prompt that is rendered already
(`POST URL/completions`).

What can go wrong, and what becomes of it:

| the server                                  | what is done                                                          |
|---------------------------------------------|-----------------------------------------------------------------------|
| is away, 408, 425, 429, 502, 503, 504       | tried again until `patience_seconds` are over, honouring Retry-After  |
| other 5xx, reset, timeout, no JSON, no text | tried again `retries` times                                           |
| more than `max_reply_bytes`                 | likewise, without reading the rest                                    |
| cuts an answer off before it began          | missing: another try would be cut off too                             |
| 400, 413, 422 and other 4xx                 | this one request is missing: another try would be refused too         |
| 401, 403, 404, 405, a redirect              | UserError: key, address or model is wrong for every request           |

A request that used up its tries is missing, with the reason; when no request at all succeeded while it waited out
its patience, the server is down, and every waiting request raises AnswererDown. A request keeps its place among the
`concurrency` while it backs off, so a server in trouble sees fewer of them, not more.

The key is written nowhere, whatever the server does with it: where a reply or an error repeats it, "(key)" stands.
"""

from __future__ import annotations

import asyncio
import email.utils
import functools
import heapq
import itertools
import json
import os
import random
import sys
import threading
import time
import urllib.parse
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from finemem_jax.chat.connection import (
    Address,
    Broken,
    CannotConnect,
    Connection,
    Response,
    TooLong,
    connect,
    parse_address,
)
from finemem_jax.chat.replies import why_unanswered
from finemem_jax.config import AnswererConfig, UserError
from finemem_jax.console import printable, tell
from finemem_jax.types import AnswererDown, Chat, Messages, Reply

_LONGEST_BACKOFF = 60.0  # seconds, before jitter
_CONNECT_SECONDS = 10.0
_SAY_EVERY = 30.0  # seconds between two lines about a server that is away
_AWAY = {408, 425, 429, 502, 503, 504}
_WRONG_FOR_ALL = {401, 403, 404, 405}
_SHORTEST_SECRET = 8  # a key shorter than this ("none", "EMPTY") is no secret, and may well be an answer


class Wire(NamedTuple):
    """One way to ask: where, the field that holds what is asked, and the text in the choice that comes back."""

    path: str
    field: str
    text: Callable[[dict], object]


CHAT = Wire("/chat/completions", "messages", lambda choice: choice["message"]["content"])  # asked: messages
COMPLETIONS = Wire("/completions", "prompt", lambda choice: choice["text"])  # asked: a text, or token ids


class _TryAgain(Exception):
    """An attempt that failed. away: the server as a whole is away or busy, which says nothing about the request."""

    def __init__(self, why: str, *, away: bool = False, after: float = 0.0):
        super().__init__(why)
        self.away, self.after = away, after


class _Hopeless(Exception):
    """The server will not answer this request."""


@dataclass(slots=True)
class Traffic:
    """What went over the wire. Attempts = replies + those that failed."""

    replies: int = 0
    retries: int = 0
    missing: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    problems: dict[str, int] = field(default_factory=dict)  # why there is no answer -> how many


class HttpChat(Chat):
    """Sends at most `cfg.concurrency` requests at once, from the one background thread that all of them share. When it
    is no longer used by anybody, its connections are closed.

    Waiting requests are sent in the order of their texts: those that begin alike follow each other, and the server
    finds their common beginning in its prefix cache.
    """

    def __init__(self, cfg: AnswererConfig, wire: Wire = CHAT, *, is_muted: bool = False):
        self.cfg, self._wire, self._is_muted = cfg, wire, is_muted
        self.traffic = Traffic()
        self._address = _checked_address(cfg.url, wire.path)
        self._extra = checked_extra(cfg.extra)
        if not cfg.model:
            raise UserError("config.answerer.model is empty: the name under which the server serves the model")
        self._key = _key_of(cfg.key_variable)
        self._headers = _headers(self._address, self._key)
        self._settings = {
            "model": cfg.model,
            "temperature": cfg.temperature,
            "max_tokens": cfg.max_tokens,
            "stream": False,
        }
        self._waiting: list[
            tuple[str, int, Messages, int, Future[Reply]]
        ] = []  # a heap; touched by the loop's thread only
        self._count = itertools.count()
        self._workers = 0
        self._idle: list[Connection] = []  # the one that was used last at the end
        self._last_success = time.monotonic()
        self._said = 0.0
        self._loop = _background()
        self._tasks: set[asyncio.Task] = set()
        weakref.finalize(self, _close_all, self._loop, self._idle).atexit = False

    @property
    def identity(self) -> list:
        """What a reply depends on besides the messages; the address of the server is not part of it."""
        return [self.cfg.model, self.cfg.temperature, self.cfg.max_tokens, self._extra]

    def submit(self, conversations: Sequence[Messages], *, max_tokens: int = 0) -> list[Future[Reply]]:
        futures: list[Future[Reply]] = [Future() for _ in conversations]
        if futures:
            self._loop.call_soon_threadsafe(self._enqueue, list(conversations), max_tokens, futures)
        return futures

    def settle(self) -> None:
        """Nothing is put off."""

    # ---- in the loop's thread ----

    def _enqueue(self, conversations: list[Messages], max_tokens: int, futures: list[Future[Reply]]) -> None:
        for messages, future in zip(conversations, futures, strict=True):
            heapq.heappush(self._waiting, (_text(messages), next(self._count), messages, max_tokens, future))
        for _ in range(min(self.cfg.concurrency - self._workers, len(conversations))):
            self._workers += 1
            task = self._loop.create_task(self._work())
            self._tasks.add(task)  # the loop itself keeps only a weak reference
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        """Answers waiting requests until there are none."""
        while self._waiting:
            _, _, messages, max_tokens, future = heapq.heappop(self._waiting)
            try:
                reply = await self._complete(messages, max_tokens)
            except Exception as error:  # belongs to whoever waits for the future
                future.set_exception(error)
                if isinstance(error, (AnswererDown, UserError)):
                    self._fail_all_waiting(error)
            else:
                future.set_result(reply)
        self._workers -= 1

    def _fail_all_waiting(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, []
        for *_, future in waiting:
            future.set_exception(error)

    async def _complete(self, messages: Messages, max_tokens: int) -> Reply:
        limit = {"max_tokens": max_tokens} if max_tokens else {}
        body = {self._wire.field: _sendable(messages), **self._settings, **limit, **self._extra}
        content = json.dumps(body).encode("ascii")  # json escapes what is not, so any text can be sent
        started, broken, backoff = time.monotonic(), 0, self.cfg.backoff_seconds
        while True:
            try:
                reply = await self._attempt(content)
            except _Hopeless as problem:
                return self._missing(str(problem))
            except _TryAgain as problem:
                broken += not problem.away
                wait = max(problem.after, backoff * random.uniform(0.5, 1.0))
                if broken > self.cfg.retries:
                    return self._missing(str(problem))
                if time.monotonic() + wait > started + self.cfg.patience_seconds:
                    return self._give_up(str(problem), started, problem.away)
                if problem.away:
                    self._say(f"{problem}; trying again for {self.cfg.patience_seconds:.0f} s at most")
                self.traffic.retries += 1
                backoff = min(2 * backoff, _LONGEST_BACKOFF)
                await asyncio.sleep(wait)
            else:
                self._last_success = time.monotonic()
                self.traffic.replies += 1
                self.traffic.prompt_tokens += reply.prompt_tokens
                self.traffic.completion_tokens += reply.completion_tokens
                if reply.problem:
                    self._note(reply.problem)
                return reply

    def _give_up(self, why: str, started: float, away: bool) -> Reply:
        if away and self._last_success < started:
            raise AnswererDown(
                f"the answerer at {self.cfg.url} gave no answer for config.answerer.patience_seconds="
                f"{self.cfg.patience_seconds:g}: {why}"
            )
        return self._missing(why)

    def _missing(self, why: str) -> Reply:
        self.traffic.missing += 1
        self._note(why)
        return Reply(None, problem=why)

    def _note(self, why: str) -> None:
        """A question that stays without an answer: counted, and said where it is the first of its kind."""
        count = self.traffic.problems.get(why, 0)
        self.traffic.problems[why] = count + 1
        if not count and not self._is_muted:
            tell(f"answerer: a question is left without an answer: {why}", file=sys.stderr, flush=True)

    async def _attempt(self, content: bytes) -> Reply:
        """One request. The time limit is for the whole of it: a server that drips a byte a second never times out
        by itself."""
        try:
            async with asyncio.timeout(self.cfg.timeout_seconds):
                response = await self._post(content)
        except TimeoutError as error:
            raise _TryAgain(f"no reply within {self.cfg.timeout_seconds:g} s") from error
        except CannotConnect as error:
            raise _TryAgain(f"cannot connect to {self.cfg.url} ({error})", away=True) from error
        except Broken as error:
            raise _TryAgain(f"connection broken ({error})") from error
        except TooLong as error:
            raise _TryAgain(f"a reply longer than max_reply_bytes={self.cfg.max_reply_bytes}") from error
        if response.status != 200:
            self._refuse(response)
        return _read_reply(response.body, self._wire, self._hidden)

    async def _post(self, content: bytes) -> Response:
        """The response on an idle connection, or on a new one; it is idle again when the response was whole."""
        connection = None
        while self._idle and connection is None:
            connection = self._idle.pop()
            if not connection.is_usable:  # the server has hung up meanwhile
                connection.close()
                connection = None
        connection = connection or await connect(self._address, _CONNECT_SECONDS)
        try:
            headers = [*self._headers, ("Content-Length", str(len(content)))]
            response = await connection.post(headers, content, self.cfg.max_reply_bytes)
        except BaseException:
            connection.close()
            raise
        if connection.is_usable:
            self._idle.append(connection)
        else:
            connection.close()
        return response

    def _refuse(self, response: Response) -> None:
        status = response.status
        why = f"HTTP {status}"
        if status in _AWAY or status >= 500:
            raise _TryAgain(why, away=status in _AWAY, after=_retry_after(response.headers.get("retry-after", "")))
        if status in _WRONG_FOR_ALL or status < 400:
            said = self._hidden(response.body.decode("utf-8", "replace"), always=True)
            raise UserError(
                f"{self.cfg.url} refuses model {self.cfg.model!r} with HTTP {status} (config.answerer.url, "
                f"config.answerer.model, key in the environment variable {self.cfg.key_variable}): "
                f"{printable(' '.join(said[:400].split())[:200], one_line=True)}"
            )
        raise _Hopeless(why)

    def _hidden(self, text: str, *, always: bool = False) -> str:
        """The text without the key. Some servers repeat the key they refuse, or a whole request."""
        if not self._key or (len(self._key) < _SHORTEST_SECRET and not always):
            return text
        for form in {self._key, json.dumps(self._key)[1:-1], self._key.replace("/", "\\/"), _quoted(self._key)}:
            text = text.replace(form, "(key)")
        return text

    def _say(self, text: str) -> None:
        if time.monotonic() - self._said > _SAY_EVERY:
            self._said = time.monotonic()
            tell(f"answerer: {text}", file=sys.stderr, flush=True)


@functools.cache
def _background() -> asyncio.AbstractEventLoop:
    """The loop in which the requests of this process are under way. Nothing in it may wait for another part of it."""
    loop = asyncio.new_event_loop()
    # A daemon: whatever is under way must not keep a process alive that wants to end.
    threading.Thread(target=loop.run_forever, name="http", daemon=True).start()
    return loop


os.register_at_fork(after_in_child=_background.cache_clear)  # a fork has none of its parent's threads


def _close_all(loop: asyncio.AbstractEventLoop, connections: list[Connection]) -> None:
    def close() -> None:
        for connection in connections:
            connection.close()

    loop.call_soon_threadsafe(close)


def _sendable(asked: Messages | Sequence[int] | str) -> list | str:
    return asked if isinstance(asked, str) else [dict(part) if isinstance(part, Mapping) else part for part in asked]


def _text(asked: Messages | Sequence[int] | str) -> str:
    if isinstance(asked, str):
        return asked
    return "\0".join(part["content"] if isinstance(part, Mapping) else str(part) for part in asked)


def _checked_address(url: str, path: str) -> Address:
    if not url:
        raise UserError("config.answerer.url is empty: the server's base URL, e.g. http://localhost:8000/v1")
    try:
        return parse_address(url.rstrip("/") + path)
    except ValueError as error:  # bad ports and hosts too
        shown = "" if set(url) & set("@?#") else f"={url!r}"  # what stands beside these may be a password or a key
        raise UserError(f"config.answerer.url{shown}: {error}") from error


def _key_of(variable: str) -> str:
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key.isascii() or not key.isprintable():
        raise UserError(
            f"the key in the environment variable {variable} (config.answerer.key_variable) is not plain text"
        )
    return key


def _headers(address: Address, key: str) -> list[tuple[str, str]]:
    """Of every request, but for its length."""
    headers = [
        ("Host", address.host_header),
        ("User-Agent", "finemem_jax"),
        ("Accept", "application/json"),
        ("Accept-Encoding", "identity"),
        ("Content-Type", "application/json"),
    ]
    headers += [("Authorization", f"Bearer {key}")] if key else []
    return headers + (
        [("Proxy-Authorization", address.proxy_key)] if address.goes_by_proxy and address.proxy_key else []
    )


def _quoted(key: str) -> str:
    return urllib.parse.quote(key, safe="")


def checked_extra(extra: str) -> dict:
    """The further fields of every request, `config.answerer.extra`."""
    try:
        parsed = json.loads(extra) if extra else {}
    except json.JSONDecodeError as error:
        raise UserError(f"config.answerer.extra is no JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise UserError(f"config.answerer.extra must be a JSON object, got {extra!r}")
    return parsed


def _retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 where it says nothing."""
    try:
        return max(float(value), 0.0) if float(value) < float("inf") else 0.0
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _read_reply(body: bytes, wire: Wire, hidden: Callable[[str], str]) -> Reply:
    """The text of the only choice, as `hidden` gives it. Anything else is a broken reply: an answer is never guessed
    from half of one."""
    try:
        parsed: Any = json.loads(body)
        (choice,) = parsed["choices"]
        text = wire.text(choice)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _TryAgain("a reply that is no chat completion") from error
    is_cut = choice.get("finish_reason") == "length"
    if not isinstance(text, str):
        raise _Hopeless(why_unanswered("", is_cut=True)) if is_cut else _TryAgain("a reply without text")
    usage = parsed.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # JSON can hold what UTF-8 cannot
    read, written = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    return Reply(hidden(text), read, written, problem=why_unanswered(text, is_cut=is_cut))


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
