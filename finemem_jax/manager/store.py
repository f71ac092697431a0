"""The memory on disk: one sqlite file with a log that only grows; what memory holds is a view of it.

A writing turn is one transaction: the text that was read, every operation with what became of it, and the items as they
are then. A process killed in the middle leaves the turn out as a whole. Two processes may use one file: whoever writes
says up to which line of the log it knows the user's memory, and is refused when there are later ones (`Moved`).

For a person with the `sqlite3` program there are views: `memory` (what is held now), `history` (every change),
`readings` (what was read, and when). Nothing is encrypted: whoever can read the file can read the memory.

Columns of `log`:

| column     | what it holds                                                                                       |
|------------|-----------------------------------------------------------------------------------------------------|
| user       | whose memory it is: namespaces share nothing                                                        |
| turn       | number of the writing turn, from 0; empty for what no turn did                                      |
| time       | when it was written, UTC                                                                            |
| said, source | time and origin of the text, as its reader gave them                                              |
| verb       | read, insert, update, replace, delete, evict, forget, skip, malformed                               |
| status     | "applied", or why an operation changed nothing                                                      |
| item, text | the item that changed and its text from then on; no text: it is gone. For read: the text            |
| kind, written_at, writers | of the item, as in training                                                          |
| operation  | the call as it was parsed, JSON                                                                     |
| digest     | of a text that was read: a second reading of the same source passes it over                         |
| state      | at the end of a transaction: what restores the memory beside its items, JSON                        |
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from finemem_jax.exits import STOPPED, RunEnded, UserError
from finemem_jax.files import local_path

VERSION = 1  # of the tables
_MARK = 0x46696E65  # "Fine": tells a store from any other sqlite file
_TABLES = """
CREATE TABLE IF NOT EXISTS log (
    number INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, turn INTEGER, time TEXT NOT NULL, said TEXT NOT NULL,
    source TEXT NOT NULL, verb TEXT NOT NULL, status TEXT NOT NULL, item TEXT NOT NULL, text TEXT, kind TEXT NOT NULL,
    written_at INTEGER, writers TEXT NOT NULL, operation TEXT, digest TEXT NOT NULL, state TEXT
);
CREATE INDEX IF NOT EXISTS log_users ON log (user, number);
CREATE INDEX IF NOT EXISTS log_items ON log (user, item, number) WHERE item <> '';
CREATE INDEX IF NOT EXISTS log_states ON log (user, number) WHERE state IS NOT NULL;
CREATE INDEX IF NOT EXISTS log_readings ON log (user, source, digest) WHERE verb = 'read';
CREATE TRIGGER IF NOT EXISTS log_only_grows BEFORE UPDATE ON log
    BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
CREATE TRIGGER IF NOT EXISTS log_loses_nothing BEFORE DELETE ON log
    BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
CREATE VIEW IF NOT EXISTS memory AS
    SELECT user, item, text, kind, time, said, source, turn FROM log WHERE text IS NOT NULL AND number IN
    (SELECT max(number) FROM log WHERE item <> '' GROUP BY user, item);
CREATE VIEW IF NOT EXISTS history AS
    SELECT number, user, time, verb, status, item, text, source, turn FROM log WHERE verb <> 'read';
CREATE VIEW IF NOT EXISTS readings AS
    SELECT number, user, time, said, source, turn, text FROM log WHERE verb = 'read';
"""


class Moved(Exception):
    """Another process wrote to the user's memory since it was read."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log; `number` is 0 until it is written."""

    user: str
    verb: str
    status: str = "applied"
    number: int = 0
    turn: int | None = None
    time: str = ""
    said: str = ""
    source: str = ""
    item: str = ""
    text: str | None = None
    kind: str = ""
    written_at: int | None = None
    writers: tuple[int, ...] = ()
    operation: str | None = None
    digest: str = ""
    state: str | None = None


_NAMES = tuple(field.name for field in fields(Line))
_WRITTEN = tuple(name for name in _NAMES if name != "number")
_WRITERS = _NAMES.index("writers")
_COLUMNS = ", ".join(f"log.{name}" for name in _NAMES)
_INSERT = f"INSERT INTO log ({', '.join(_WRITTEN)}) VALUES ({', '.join('?' * len(_WRITTEN))})"
_HELD = f"""
SELECT {_COLUMNS} FROM (SELECT min(number) AS first, max(number) AS last FROM log
                        WHERE user = ? AND item <> '' GROUP BY item) AS held
JOIN log ON log.number = held.last WHERE log.text IS NOT NULL ORDER BY held.first"""
_TYPES: Mapping[str, tuple[type, ...]] = {
    "turn": (int, type(None)),
    "text": (str, type(None)),
    "written_at": (int, type(None)),
    "operation": (str, type(None)),
    "state": (str, type(None)),
    "number": (int,),
    "writers": (list,),
}


class Store:
    """One file. Safe to use from several threads and processes at once."""

    def __init__(self, path: str | Path, *, busy_seconds: float = 60.0):
        """path: the file, made where there is none; ":memory:" = gone with the process. busy_seconds: how long to wait
        for another process that writes."""
        self.path = local_path(str(path), "store")
        self._busy_seconds = busy_seconds
        self._lock = threading.Lock()
        if Path(self.path).is_dir():
            raise UserError(f"{self.path} is a folder: a store is a file, e.g. {Path(self.path) / 'memory.sqlite'}")
        if self.path != ":memory:" and not Path(self.path).resolve().parent.is_dir():
            raise UserError(f"{self.path}: there is no folder {Path(self.path).resolve().parent} for the store")
        with self._explained():
            self._rows = sqlite3.connect(
                self.path, timeout=busy_seconds, check_same_thread=False, isolation_level=None, cached_statements=64
            )
            self._prepare()

    def _prepare(self) -> None:
        mark, version = (
            self._rows.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if mark != _MARK and self._rows.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise UserError(f"{self.path} is an sqlite file, but no memory store of finemem: choose another file")
        if mark == _MARK and version != VERSION:
            raise UserError(f"{self.path} is a store of version {version}, and this is {VERSION}: update finemem_jax")
        self._rows.execute("PRAGMA journal_mode=WAL")
        self._rows.execute("PRAGMA synchronous=FULL")  # a turn that was reported is on the disk, power cuts included
        if mark != _MARK:
            with self._writing():
                for statement in _statements(_TABLES):
                    self._rows.execute(statement)
                self._rows.execute(f"PRAGMA application_id={_MARK}")
                self._rows.execute(f"PRAGMA user_version={VERSION}")

    def close(self) -> None:
        with self._lock:
            self._rows.close()

    # ---- reading ----

    def position(self, user: str) -> int:
        """Number of the last line of a user's log; 0 where there is none."""
        return self._one("SELECT max(number) FROM log WHERE user = ?", user) or 0

    def lines(self, user: str, *, after: int = 0, item: str = "") -> list[Line]:
        """The user's log behind a line, in order; of one item where it is named."""
        if item:
            return self._all(f"SELECT {_COLUMNS} FROM log WHERE user = ? AND item = ? ORDER BY number", user, item)
        return self._all(f"SELECT {_COLUMNS} FROM log WHERE user = ? AND number > ? ORDER BY number", user, after)

    def held(self, user: str) -> tuple[list[Line], Mapping[str, Any], int]:
        """What memory holds: the last line of each item, in the order in which the items came; the state beside them;
        and the position that this is true at."""
        with self._explained(), self._lock, self._reading():
            found = [_line(row) for row in self._rows.execute(_HELD, (_in(user),))]
            last = "SELECT state FROM log WHERE user = ? AND state IS NOT NULL ORDER BY number DESC LIMIT 1"
            state = self._rows.execute(last, (_in(user),)).fetchone()
            position = self._rows.execute("SELECT max(number) FROM log WHERE user = ?", (_in(user),)).fetchone()[0]
        return found, json.loads(state[0]) if state else {}, position or 0

    def has_read(self, user: str, source: str, digest: str) -> bool:
        sql = "SELECT 1 FROM log WHERE verb = 'read' AND user = ? AND source = ? AND digest = ?"
        return bool(self._one(sql, user, source, digest))

    def users(self) -> list[str]:
        with self._explained(), self._lock:
            return [_out(row[0]) for row in self._rows.execute("SELECT DISTINCT user FROM log ORDER BY user")]

    # ---- writing ----

    def append(self, user: str, expected: int, lines: Sequence[Line]) -> list[Line]:
        """Writes the lines of one transaction and returns them with their numbers. Raises Moved where the user's log
        has gone on beyond line `expected`."""
        with self._explained(), self._lock, self._writing():
            position = self._rows.execute("SELECT max(number) FROM log WHERE user = ?", (_in(user),)).fetchone()[0] or 0
            if position != expected:
                raise Moved(user)
            return [self._add(line) for line in lines]

    def _add(self, line: Line) -> Line:
        values = [json.dumps(line.writers) if name == "writers" else _in(getattr(line, name)) for name in _WRITTEN]
        return replace(line, number=self._rows.execute(_INSERT, values).lastrowid or 0)

    # ---- JSON lines ----

    def export_lines(self, user: str = "") -> Iterator[str]:
        """The log as JSON, a line each; of one user where it is named."""
        where, given = ("WHERE user = ?", [user]) if user else ("", [])
        for line in self._all(f"SELECT {_COLUMNS} FROM log {where} ORDER BY number", *given):
            yield json.dumps(asdict(line), ensure_ascii=True)

    def import_lines(self, lines: Iterable[str], name: str = "the file") -> int:
        """Adds the users of an exported log, all or none of them; returns how many lines there were. Raises UserError
        where a line is not one of a log, or a user is here already."""
        found = [_parsed(text, f"{name} line {number}") for number, text in enumerate(lines, 1) if text.strip()]
        known = sorted({line.user for line in found} & set(self.users()))
        if known:
            raise UserError(f"{name}: the store {self.path} holds user {known[0]!r} already, and a log is not merged")
        with self._explained(), self._lock, self._writing():
            for line in found:
                self._add(line)
        return len(found)

    # ---- sqlite ----

    def _one(self, sql: str, *given: str) -> Any:
        with self._explained(), self._lock:
            row = self._rows.execute(sql, [_in(value) for value in given]).fetchone()
        return row[0] if row else None

    def _all(self, sql: str, *given: object) -> list[Line]:
        with self._explained(), self._lock:
            return [_line(row) for row in self._rows.execute(sql, [_in(value) for value in given])]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction, whole or not at all. IMMEDIATE: what it reads first is still true when it writes."""
        self._rows.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._rows.execute("COMMIT")
        except BaseException:
            if self._rows.in_transaction:
                self._rows.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """One snapshot for several queries."""
        self._rows.execute("BEGIN")
        try:
            yield
        finally:
            self._rows.execute("ROLLBACK")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """What sqlite finds wrong, as one line for whoever can do something about it."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                why = f"another process has been writing for {self._busy_seconds:g} seconds: try again"
            elif code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise RunEnded(f"the store {self.path} cannot be written: {error}", STOPPED) from error
            elif code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                why = f"it is no sqlite file, or damaged ({error}): take a copy from before, or an export"
            elif code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
                why = f"it cannot be opened for writing ({error})"
            else:
                raise
            raise UserError(f"the store {self.path}: {why}") from error


def _statements(script: str) -> Iterator[str]:
    """A script's statements; `executescript` would commit between them."""
    statement = ""
    for part in script.split(";"):
        statement += f"{part};"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _in(value: Any) -> Any:
    """A text with a lone surrogate, which sqlite's text does not take, goes in as bytes."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogatepass")
    return value


def _out(value: Any) -> Any:
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def _line(row: tuple) -> Line:
    """A row of the columns _NAMES."""
    values: list[Any] = [value.decode("utf-8", "surrogatepass") if type(value) is bytes else value for value in row]
    values[_WRITERS] = tuple(map(int, values[_WRITERS][1:-1].split(","))) if len(values[_WRITERS]) > 2 else ()
    return Line(*values)


def _parsed(text: str, where: str) -> Line:
    """A line of an exported log, checked: it may come from anywhere."""
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or set(values) != set(_NAMES):
            raise ValueError(f"wanted are the fields {', '.join(_NAMES)}")
        for name, value in values.items():
            kinds = _TYPES.get(name, (str,))
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}")
            if isinstance(value, int) and abs(value) >= 2**63:
                raise ValueError(f"{name} is too large")
        if not all(type(writer) is int for writer in values["writers"]):
            raise ValueError("writers must be numbers")
        for name in ("operation", "state"):
            if values[name] is not None and not isinstance(json.loads(values[name]), dict):
                raise ValueError(f"{name} is no object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no line of a memory's log: {str(error)[:200]}") from error
    return Line(**{**values, "number": 0, "writers": tuple(values["writers"])})
