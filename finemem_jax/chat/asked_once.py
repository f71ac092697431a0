"""Every conversation is asked once: in flight, in this run, and in the runs after it.

`AskedOnce` stands before a chat model. Conversations that are equal, or were asked before with the same model and
settings, cost one call. Replies are written to an sqlite file the moment they come (`reply_store.py`), so a killed run
repeats none. A reply that is missing, or was cut off before it answered, is never kept: the next run asks again.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from finemem_jax.chat.reply_store import ReplyStore
from finemem_jax.types import Chat, Messages, Reply


class AskedOnce(Chat):
    """`chat` behind the cache. identity: JSON of what a reply depends on besides the messages (model, settings)."""

    def __init__(self, chat: Chat, identity: object, path: str, max_bytes: int):
        """path: the sqlite file; "" = a temporary one that is gone with the process. max_bytes: how large it may be."""
        self.chat = chat
        self.hits = 0  # conversations that cost no call
        self.replies = self.missing = self.prompt_tokens = self.completion_tokens = 0  # of those that did
        self._identity = identity
        self._store = ReplyStore(path, max_bytes)
        self._in_flight: dict[str, Future[Reply]] = {}
        self._lock = threading.Lock()

    def submit(self, conversations: Sequence[Messages], *, max_tokens: int = 0) -> list[Future[Reply]]:
        keys = [self._key(messages, max_tokens) for messages in conversations]
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
            started = self.chat.submit(list(fresh.values()), max_tokens=max_tokens)
        except Exception:  # e.g. a prompt that fits no local model: nobody must wait for it
            with self._lock:
                for key in fresh:
                    del self._in_flight[key]
            raise
        for key, asked in zip(fresh, started, strict=True):
            asked.add_done_callback(partial(self._arrived, key))
        return futures

    def settle(self) -> None:
        self.chat.settle()

    def _key(self, messages: Messages, max_tokens: int) -> str:
        asked = [self._identity, messages, *([max_tokens] if max_tokens else [])]
        text = json.dumps(asked, sort_keys=True, default=dict)
        return hashlib.sha256(text.encode()).hexdigest()

    def _arrived(self, key: str, asked: Future[Reply]) -> None:
        """Keeps a reply, then hands it on: what anybody has seen is on disk."""
        error = asked.exception()
        with self._lock:
            if error is None:
                self._count(asked.result())
            if error is None and not _is_missing(asked.result()):
                self._store.keep(key, asked.result())
            waiting = self._in_flight.pop(key)
        if error is not None:
            waiting.set_exception(error)
        else:
            waiting.set_result(replace(asked.result(), key=key))

    def _count(self, reply: Reply) -> None:
        self.replies += not _is_missing(reply)
        self.missing += _is_missing(reply)
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens


def _is_missing(reply: Reply) -> bool:
    return reply.text is None or bool(reply.problem)


def _done(reply: Reply) -> Future[Reply]:
    future: Future[Reply] = Future()
    future.set_result(reply)
    return future
