"""Replies on disk, each with a checksum: an sqlite file that may be damaged gives fewer replies, never another one.

| the file                                     | what is done                                                       |
|----------------------------------------------|--------------------------------------------------------------------|
| holds a reply that is not what was written   | it counts as unknown, and is asked again                           |
| is no database, or it contradicts itself     | set aside as NAME.damaged; the replies that are whole are taken on |
| is as large as it may be                     | the oldest replies make room                                       |
| cannot be written, or the disk is full       | it is read on; new replies are not kept, which is said             |
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finemem_jax.config import UserError
from finemem_jax.console import tell
from finemem_jax.types import Reply

_BUSY_SECONDS = 60.0  # several processes may share one file
_LOOKUPS = 500  # keys per query
_EVICTED = 16  # one in so many of the replies makes room at once
_FIELDS = "key, text, prompt_tokens, completion_tokens, checksum"
_TABLE = (
    "CREATE TABLE IF NOT EXISTS kept (number INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, text BLOB, "
    "prompt_tokens INTEGER, completion_tokens INTEGER, checksum BLOB)"
)
# What the machine or another process does; anything else that sqlite finds wrong is wrong with the file.
_OUTSIDE = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
}
# A damaged length or type shows itself only when the value is made: as too long, as no text, as too large a number.
_FAULTS = (sqlite3.Error, MemoryError, OverflowError, ValueError)


class ReplyStore:
    """Replies by key (64 hexadecimal digits). Its owner holds a lock around every call."""

    def __init__(self, path: str, max_bytes: int):
        """path: the sqlite file; "" = a temporary one that is gone with the process. max_bytes: of the file."""
        self._path, self._max_bytes = path, max_bytes
        self._said: set[str] = set()
        try:
            if path:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._rows = self._open()
        except _FAULTS as error:
            if not _is_damage(error):
                raise UserError(f"cannot use the cache of answers {path} (config.answerer.cache): {error}") from error
            self._start_anew(error)
        except OSError as error:
            raise UserError(f"cannot use the cache of answers {path} (config.answerer.cache): {error}") from error

    def find(self, keys: list[str]) -> dict[str, Reply]:
        """The replies that are there and whole."""
        found: dict[str, Reply] = {}
        for start in range(0, len(keys), _LOOKUPS):
            part = [bytes.fromhex(key) for key in keys[start : start + _LOOKUPS]]
            query = f"SELECT {_FIELDS} FROM kept WHERE key IN ({','.join('?' * len(part))})"
            try:
                rows = self._rows.execute(query, part).fetchall()
            except _FAULTS as error:
                if not _is_damage(error):
                    self._say("cannot be read", f"{error}; these questions are asked again")
                    continue
                self._start_anew(error)
                return self.find(keys)
            for row in rows:
                if _is_whole(row):
                    key = row[0].hex()
                    found[key] = Reply(_from_bytes(row[1]), row[2], row[3], key)
                else:
                    self._say("holds replies that are damaged", "they are asked again")
        return found

    def keep(self, key: str, reply: Reply) -> None:
        """Writes a reply, whose text is not None."""
        row = (bytes.fromhex(key), _to_bytes(reply.text or ""), reply.prompt_tokens, reply.completion_tokens)
        try:
            self._write(row)
        except _FAULTS as error:  # a full disk must not cost the answer itself
            if not _is_damage(error):
                self._say("cannot be written", f"{error}; answers are not kept")
                return
            self._start_anew(error)
            with contextlib.suppress(*_FAULTS):
                self._write(row)

    def close(self) -> None:
        self._rows.close()

    def _write(self, row: tuple[bytes, bytes, int, int]) -> None:
        insert = f"INSERT OR REPLACE INTO kept ({_FIELDS}) VALUES (?, ?, ?, ?, ?)"
        try:
            self._rows.execute(insert, (*row, _checksum(*row)))
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_FULL or not self._is_at_its_limit():
                raise
            self._say(f"has reached config.answerer.max_cache_bytes={self._max_bytes}", "the oldest answers make room")
            oldest = f"SELECT min(number) + (max(number) - min(number)) / {_EVICTED} FROM kept"
            self._rows.execute(f"DELETE FROM kept WHERE number <= ({oldest})")
            self._rows.execute(insert, (*row, _checksum(*row)))

    def _is_at_its_limit(self) -> bool:
        """Whether a full file is one of its own making, not of the disk's."""
        return _number(self._rows, "page_count") >= _number(self._rows, "max_page_count")

    def _open(self) -> sqlite3.Connection:
        if os.path.isfile(self._path):
            with open(self._path, "rb") as file:
                if file.read(20)[18:] not in (b"", b"\1\1", b"\2\2"):  # with another, sqlite reads and never writes
                    raise sqlite3.DatabaseError("no version of the format")
        rows = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level=None)
        try:
            rows.text_factory = bytes  # a damaged column may say that it is text
            rows.execute("PRAGMA journal_mode=WAL")
            rows.execute("PRAGMA synchronous=NORMAL")  # a power cut may lose the last replies, never the file
            rows.execute(_TABLE)
            rows.execute(f"SELECT number, {_FIELDS} FROM kept LIMIT 1").fetchall()
            rows.execute(f"PRAGMA max_page_count={max(self._max_bytes // _number(rows, 'page_size'), 1)}")
        except BaseException:
            rows.close()
            raise
        return rows

    def _start_anew(self, error: Exception) -> None:
        """Sets the file aside and goes on with another, which has what is whole of it."""
        with contextlib.suppress(AttributeError, *_FAULTS):
            self._rows.close()
        aside = _free_name(f"{self._path}.damaged")
        try:
            for end in ("", "-wal", "-shm"):
                if os.path.exists(self._path + end):
                    os.replace(self._path + end, aside + end)
        except OSError as problem:
            self._path = ""  # answers are kept for as long as the process lives
            self._say("is damaged", f"{error}, and cannot be set aside: {problem}; answers are not kept")
        self._rows = self._open()
        carried = 0
        for row in _whole_rows(aside):
            self._write(row[:4])
            carried += 1
        tell(
            f"answerer: the cache of answers is damaged ({error}): it is set aside as {aside}, {carried} replies are "
            "carried over, the rest is asked again",
            file=sys.stderr,
        )

    def _say(self, what: str, consequence: str) -> None:
        if what not in self._said:
            tell(f"answerer: {self._path or 'the cache of answers'} {what}: {consequence}", file=sys.stderr)
        self._said.add(what)


def _whole_rows(path: str) -> Iterator[Any]:
    """The rows of a damaged file that are whole, as far as it can be read from its beginning and from its end."""
    seen: set[bytes] = set()
    for order in ("ASC", "DESC"):
        with contextlib.suppress(*_FAULTS), contextlib.closing(sqlite3.connect(path, timeout=1.0)) as rows:
            rows.text_factory = bytes
            for row in rows.execute(f"SELECT {_FIELDS} FROM kept ORDER BY number {order}"):
                if _is_whole(row) and row[0] not in seen:
                    seen.add(row[0])
                    yield row


def _checksum(key: bytes, text: bytes, prompt_tokens: int, completion_tokens: int) -> bytes:
    numbers = b"%d %d " % (prompt_tokens, completion_tokens)
    return hashlib.blake2b(key + numbers + text, digest_size=16).digest()


def _is_whole(row: tuple[Any, ...]) -> bool:
    """Whether a row is what was written. After damage its columns may be of any type."""
    types = (bytes, bytes, int, int, bytes)
    return all(type(value) is kind for value, kind in zip(row, types, strict=True)) and _checksum(*row[:4]) == row[4]


def _is_damage(error: Exception) -> bool:
    return not isinstance(error, sqlite3.Error) or _code(error) not in _OUTSIDE


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF


def _number(rows: sqlite3.Connection, pragma: str) -> int:
    return rows.execute(f"PRAGMA {pragma}").fetchone()[0]


def _free_name(path: str) -> str:
    names = (path if n == 1 else f"{path}-{n}" for n in range(1, 1 << 16))
    return next(name for name in names if not os.path.exists(name))


def _to_bytes(text: str) -> bytes:
    """Replies may hold lone surrogates and NULs, which sqlite's text does not take."""
    return text.encode("utf-8", "surrogatepass")


def _from_bytes(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
