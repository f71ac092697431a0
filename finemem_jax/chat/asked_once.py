"""Every conversation is asked once: in flight, in this run, and in the runs after it.

`AskedOnce` stands before a chat model. Conversations that are equal, or were asked before with the same model and
settings, cost one call. Replies are written to an sqlite file the moment they come, so a killed run repeats none.
A missing reply is never kept: the next run asks again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from finemem_jax.config import UserError
from finemem_jax.types import Chat, Messages, Reply

_BUSY_SECONDS = 60.0  # several processes may share one file
_LOOKUPS = 500  # keys per query


class AskedOnce(Chat):
    """`chat` behind the cache. identity: JSON of what a reply depends on besides the messages (model, settings)."""

    def __init__(self, chat: Chat, identity: object, path: str = ""):
        """path: the sqlite file; "" = a temporary one that is gone with the process."""
        self.chat = chat
        self.hits = 0  # conversations that cost no call
        self.replies = self.missing = self.prompt_tokens = self.completion_tokens = 0  # of those that did
        self._identity = identity
        self._store = _ReplyStore(path)
        self._in_flight: dict[str, Future[Reply]] = {}
        self._lock = threading.Lock()

    def submit(self, conversations: Sequence[Messages]) -> list[Future[Reply]]:
        keys = [self._key(messages) for messages in conversations]
        with self._lock:
            known = self._store.find(list(dict.fromkeys(keys)))
            fresh: dict[str, Messages] = {}
            for key, messages in zip(keys, conversations, strict=True):
                if key not in known and key not in self._in_flight:
                    fresh[key] = messages
                    self._in_flight[key] = Future()
            futures = [self._in_flight[key] if key not in known else _done(known[key]) for key in keys]
            self.hits += len(keys) - len(fresh)
        try:
            started = self.chat.submit(list(fresh.values()))
        except Exception:  # e.g. a prompt that fits no local model: nobody must wait for it
            with self._lock:
                for key in fresh:
                    del self._in_flight[key]
            raise
        for key, asked in zip(fresh, started, strict=True):
            asked.add_done_callback(lambda reply, key=key: self._arrived(key, reply))
        return futures

    def settle(self) -> None:
        self.chat.settle()

    def _key(self, messages: Messages) -> str:
        text = json.dumps([self._identity, [dict(message) for message in messages]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _arrived(self, key: str, asked: Future[Reply]) -> None:
        """Keeps a reply, then hands it on: what anybody has seen is on disk."""
        error = asked.exception()
        with self._lock:
            if error is None:
                self._count(asked.result())
            if error is None and asked.result().text is not None:
                self._store.keep(key, asked.result())
            waiting = self._in_flight.pop(key)
        if error is not None:
            waiting.set_exception(error)
        else:
            waiting.set_result(replace(asked.result(), key=key))

    def _count(self, reply: Reply) -> None:
        self.replies += reply.text is not None
        self.missing += reply.text is None
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens


def _done(reply: Reply) -> Future[Reply]:
    future: Future[Reply] = Future()
    future.set_result(reply)
    return future


class _ReplyStore:
    """The sqlite file. Its owner holds a lock around every call."""

    def __init__(self, path: str):
        self._path = path
        try:
            if path:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._rows = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level=None)
            self._rows.execute("PRAGMA journal_mode=WAL")
            self._rows.execute("PRAGMA synchronous=NORMAL")  # a power cut may lose the last replies, never the file
            self._rows.execute(
                "CREATE TABLE IF NOT EXISTS replies "
                "(key TEXT PRIMARY KEY, text TEXT, prompt_tokens INTEGER, completion_tokens INTEGER) WITHOUT ROWID"
            )
        except (sqlite3.Error, OSError) as error:
            raise UserError(f"cannot use the cache of answers {path} (config.answerer.cache): {error}") from error
        self._is_broken = False

    def find(self, keys: list[str]) -> dict[str, Reply]:
        found = {}
        for start in range(0, len(keys), _LOOKUPS):
            part = keys[start : start + _LOOKUPS]
            query = f"SELECT * FROM replies WHERE key IN ({','.join('?' * len(part))})"
            try:
                rows = self._rows.execute(query, part).fetchall()
            except sqlite3.DatabaseError as error:
                raise UserError(f"the cache of answers {self._path} is damaged ({error}): remove it") from error
            for key, text, prompt_tokens, completion_tokens in rows:
                found[key] = Reply(_from_bytes(text), prompt_tokens, completion_tokens, key)
        return found

    def keep(self, key: str, reply: Reply) -> None:
        row = (key, _to_bytes(reply.text), reply.prompt_tokens, reply.completion_tokens)
        try:
            self._rows.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?)", row)
        except sqlite3.Error as error:  # a full disk must not cost the answer itself
            if not self._is_broken:
                print(f"answerer: cannot write {self._path}: {error}; answers are not kept", file=sys.stderr)
            self._is_broken = True


def _to_bytes(text: str | None) -> bytes:
    """Replies may hold lone surrogates and NULs, which sqlite's text does not take."""
    return (text or "").encode("utf-8", "surrogatepass")


def _from_bytes(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
