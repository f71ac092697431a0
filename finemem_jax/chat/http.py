"""A chat model behind any OpenAI-compatible server (`POST URL/chat/completions`).

What can go wrong, and what becomes of it:

| the server                                  | what is done                                                          |
|---------------------------------------------|-----------------------------------------------------------------------|
| is away, 408, 425, 429, 502, 503, 504       | tried again until `patience_seconds` are over, honouring Retry-After  |
| other 5xx, reset, timeout, no JSON, no text | tried again `retries` times                                           |
| 400, 413, 422 and other 4xx                 | this one request is missing: another try would be refused too         |
| 401, 403, 404, 405, a redirect              | UserError: key, address or model is wrong for every request           |

A request that used up its tries is missing, with the reason; when no request at all succeeded while it waited out
its patience, the server is down, and every waiting request raises AnswererDown. A request keeps its place among the
`concurrency` while it backs off, so a server in trouble sees fewer of them, not more.
"""

from __future__ import annotations

import asyncio
import email.utils
import heapq
import itertools
import json
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import httpx

from finemem_jax.config import AnswererConfig, UserError
from finemem_jax.types import AnswererDown, Chat, Messages, Reply

_LONGEST_BACKOFF = 60.0  # seconds, before jitter
_CONNECT_SECONDS = 10.0
_SAY_EVERY = 30.0  # seconds between two lines about a server that is away
_AWAY = {408, 425, 429, 502, 503, 504}
_WRONG_FOR_ALL = {401, 403, 404, 405}


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
    problems: dict[str, int] = field(default_factory=dict)  # why requests are missing -> how many


class HttpChat(Chat):
    """Sends at most `cfg.concurrency` requests at once from one background thread.

    Waiting requests are sent in the order of their texts: those that begin alike follow each other, and the server
    finds their common beginning in its prefix cache.
    """

    def __init__(self, cfg: AnswererConfig):
        self.cfg = cfg
        self.traffic = Traffic()
        self._url = _checked_url(cfg.url)
        self._extra = _checked_extra(cfg.extra)
        if not cfg.model:
            raise UserError("config.answerer.model is empty: the name under which the server serves the model")
        self._key = os.environ.get(cfg.key_variable, "").strip() if cfg.key_variable else ""
        self._waiting: list[tuple[str, int, Messages, Future[Reply]]] = []  # a heap; touched by the loop's thread only
        self._count = itertools.count()
        self._workers = 0
        self._client: httpx.AsyncClient | None = None
        self._last_success = time.monotonic()
        self._said = 0.0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task] = set()

    @property
    def identity(self) -> list:
        """What a reply depends on besides the messages; the address of the server is not part of it."""
        return [self.cfg.model, self.cfg.temperature, self.cfg.max_tokens, self._extra]

    def submit(self, conversations: Sequence[Messages]) -> list[Future[Reply]]:
        futures: list[Future[Reply]] = [Future() for _ in conversations]
        if futures:
            with self._lock:
                if self._loop is None:
                    self._loop = asyncio.new_event_loop()
                    # A daemon: whatever is under way must not keep a process alive that wants to end.
                    threading.Thread(target=self._loop.run_forever, name="answerer", daemon=True).start()
            self._loop.call_soon_threadsafe(self._enqueue, list(conversations), futures)
        return futures

    def settle(self) -> None:
        """Nothing is put off."""

    # ---- in the loop's thread ----

    def _enqueue(self, conversations: list[Messages], futures: list[Future[Reply]]) -> None:
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(self.cfg.timeout_seconds, connect=_CONNECT_SECONDS, pool=None),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=self.cfg.concurrency),
                headers={"Content-Type": "application/json"}
                | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            )
        for messages, future in zip(conversations, futures, strict=True):
            heapq.heappush(self._waiting, (_text(messages), next(self._count), messages, future))
        for _ in range(min(self.cfg.concurrency - self._workers, len(conversations))):
            self._workers += 1
            task = self._loop.create_task(self._work())
            self._tasks.add(task)  # the loop itself keeps only a weak reference
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        """Answers waiting requests until there are none."""
        while self._waiting:
            _, _, messages, future = heapq.heappop(self._waiting)
            try:
                reply = await self._complete(messages)
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

    async def _complete(self, messages: Messages) -> Reply:
        body = {
            "model": self.cfg.model,
            "messages": [dict(message) for message in messages],
            "temperature": self.cfg.temperature,
            "max_tokens": self.cfg.max_tokens,
            "stream": False,
            **self._extra,
        }
        started, broken, backoff = time.monotonic(), 0, self.cfg.backoff_seconds
        while True:
            try:
                reply = await self._attempt(body)
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
        self.traffic.problems[why] = self.traffic.problems.get(why, 0) + 1
        return Reply(None, problem=why)

    async def _attempt(self, body: dict) -> Reply:
        """One request. The time limit is for the whole of it: a server that drips a byte a second never times out
        by itself."""
        try:
            async with asyncio.timeout(self.cfg.timeout_seconds):
                response = await self._client.post(self._url, content=json.dumps(body))  # ASCII: any text can be sent
        except TimeoutError as error:
            raise _TryAgain(f"no reply within {self.cfg.timeout_seconds:g} s") from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _TryAgain(f"cannot connect to {self.cfg.url}", away=True) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _TryAgain(f"connection broken ({type(error).__name__})") from error
        if response.status_code != httpx.codes.OK:
            self._refuse(response)
        return _read_reply(response)

    def _refuse(self, response: httpx.Response) -> None:
        status = response.status_code
        why = f"HTTP {status}"
        if status in _AWAY or status >= 500:
            raise _TryAgain(why, away=status in _AWAY, after=_retry_after(response.headers.get("retry-after", "")))
        said = " ".join(response.text[:400].split())[:200]
        if self._key:  # some servers repeat the key they refuse
            said = said.replace(self._key, "(key)")
        if status in _WRONG_FOR_ALL or status < 400:
            raise UserError(
                f"{self.cfg.url} refuses model {self.cfg.model!r} with HTTP {status} (config.answerer.url, "
                f"config.answerer.model, key in the environment variable {self.cfg.key_variable}): {said}"
            )
        raise _Hopeless(why)

    def _say(self, text: str) -> None:
        if time.monotonic() - self._said > _SAY_EVERY:
            self._said = time.monotonic()
            print(f"answerer: {text}", file=sys.stderr, flush=True)


def _text(messages: Messages) -> str:
    return "\0".join(message["content"] for message in messages)


def _checked_url(url: str) -> str:
    if not url:
        raise UserError("config.answerer.url is empty: the server's base URL, e.g. http://localhost:8000/v1")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise UserError(f"config.answerer.url={url!r} is no URL") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(f"config.answerer.url={url!r} must start with http:// or https://")
    if parsed.userinfo:
        raise UserError("config.answerer.url holds a password: a key belongs into the environment, never into a config")
    return url.rstrip("/") + "/chat/completions"


def _checked_extra(extra: str) -> dict:
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


def _read_reply(response: httpx.Response) -> Reply:
    """The text of the only choice. Anything else is a broken reply: an answer is never guessed from half of one."""
    try:
        parsed: Any = response.json()
        (choice,) = parsed["choices"]
        text = choice["message"]["content"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _TryAgain("a reply that is no chat completion") from error
    if not isinstance(text, str):
        raise _TryAgain("a reply without text")
    usage = parsed.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # JSON can hold what UTF-8 cannot
    return Reply(text, _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
