"""`Manager`: a trained memory manager in your own agent. It reads, recalls, answers, tells its history and forgets.

    from finemem_jax import Manager

    manager = Manager("http://localhost:8000/v1", store="memory.sqlite", config={"folder": "my-manager"})
    manager.read("Mina moved to Oslo last week.", time="2026-05-08", source="chat-17", user="mina")
    manager.recall("Where does Mina live?", user="mina")

Chunks, view, prompt, codec, limits and retrieval are those of the model's training, read from its exported folder, so
it writes what `finemem evaluate` has it write. What is written is in the store before `read` returns; a reading that
was cut short goes on when it is called again with the same `source`. Namespaces (`user`) share nothing.

Importing this loads no jax, and neither does a model behind a URL; a folder as the model runs in our engine, with jax.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from finemem_jax.config import UserError, resolve
from finemem_jax.corpora import _conversation
from finemem_jax.env import chunking
from finemem_jax.env.answering import answer_turns
from finemem_jax.env.chunk_lengths import prompt_tokens
from finemem_jax.env.environment import METHODS, Asked, Environment
from finemem_jax.manager import tools, writer
from finemem_jax.manager.held import CHANGES, Held, changes
from finemem_jax.manager.settings import ManagerConfig, manager_config
from finemem_jax.manager.store import Line, Moved, Store
from finemem_jax.types import Answerer, AnswerRequest, Chunk, Completion, Episode, Question, Turn

_T = TypeVar("_T")
_SLACK = 32  # tokens that a chunk may count for more in its prompt than by itself
_LEAST_TOKENS = 16  # of a chunk
MOST_CHARACTERS = 64 << 20  # of one text to read
MOST_NAME = 512  # characters of a user, a source, a time
Text = str | Sequence[Mapping[str, Any]]
"""What can be read: a text, or the messages of one session, each with a role (or name) and a content."""


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one operation, or of one item. verb: read, insert, update, replace, delete, evict (it made room),
    forget, skip, malformed; status: "applied", or why nothing changed."""

    verb: str
    status: str
    id: str
    text: str | None  # of the item from then on; None where it is gone or none changed
    time: str  # when it was written, UTC
    source: str
    said: str  # the time of what was read, as given
    turn: int | None

    @property
    def is_applied(self) -> bool:
        return self.verb in CHANGES and self.status == "applied"


@dataclass(frozen=True, slots=True)
class Written:
    """What came of a reading."""

    changes: tuple[Change, ...]
    parts: int  # chunks that the text had
    known: int  # of them read before from the same source, and passed over now

    @property
    def applied(self) -> tuple[Change, ...]:
        """The changes of memory alone."""
        return tuple(change for change in self.changes if change.is_applied)


@dataclass(frozen=True, slots=True)
class Recalled:
    """An item of memory with its provenance."""

    id: str
    text: str
    score: float  # BM25's; 0 where the item is given whatever is asked
    kind: str
    time: str  # when its text was written, UTC
    said: str  # the time of what it was written from, as given
    source: str
    turn: int


@dataclass(frozen=True, slots=True)
class Answered:
    text: str | None  # None where the answerer failed
    items: tuple[Recalled, ...]


class Manager:
    """A model with a store. Its methods may be called from several threads."""

    def __init__(
        self,
        model: str,
        store: str | Path | Store = "memory.sqlite",
        config: ManagerConfig | Mapping[str, Any] | None = None,
    ):
        """model: base URL of an OpenAI-compatible server (http://localhost:8000/v1), or an exported folder. store: its
        file. config: fields of `ManagerConfig`. Raises UserError, one line, on what is wrong with them."""
        self.config = manager_config(config)
        self._source = writer.find_source(model, self.config)
        self.settings = self._source.settings
        self.store = store if isinstance(store, Store) else Store(store, busy_seconds=self.config.busy_seconds)
        self._lock = threading.RLock()  # the memories, and the tokenizer, which no two threads may use at once
        self._reading: dict[str, threading.Lock] = {}  # by user: a turn waits for the one before it
        self._held: dict[str, Held] = {}

    # ---- the verbs ----

    def read(self, text: Text, *, time: str = "", source: str = "", user: str = "default") -> Written:
        """Lets the model write what is worth keeping of a text, or of the messages of one session.

        time: when it was said, as it is to be understood later ("2026-05-08", "8 May 2026"). source: where it is from;
        what was read of the same source before is passed over, so a reading that was cut short can be repeated.
        Raises AnswererDown where the model's server gives nothing: what was read until then is kept."""
        user, source = _name(user, "user"), _name(source, "source", may_be_empty=True)
        time = _whole(_conversation.time_text(time, "time"))[:MOST_NAME]
        written: list[Change] = []
        chunks, known, seen = self._chunks(text, time), 0, Counter[str]()
        with self._reading_of(user):
            for chunk in chunks:
                seen[chunk] += 1
                digest = hashlib.sha256(f"{seen[chunk]} {chunk}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
                if source and self.store.has_read(user, source, digest):
                    known += 1
                    continue
                written += map(_change, self._write(user, Chunk(chunk, 0), time, source, digest))
        return Written(tuple(written), len(chunks), known)

    def recall(self, question: str, k: int = 0, *, user: str = "default") -> tuple[Recalled, ...]:
        """The items that an answerer is given for a question, best first. k: how many; 0 = as in training."""
        if not isinstance(k, int) or isinstance(k, bool) or k < 0:
            raise UserError(f"k={k!r}: must be a whole number, at least 0")
        question = _text(question, "question")
        with self._lock:
            held = self._held_of(_name(user, "user"))
            found = held.recall(question, k)
            return tuple(_recalled(held.lines[item.id], item.score) for item in found)

    def answer(self, question: str, *, user: str = "default") -> Answered:
        """What the answerer says from the items recalled: the one of the config, or the model itself, where it was
        trained to answer (`method.answers`)."""
        question, user = _text(question, "question"), _name(user, "user")
        if self.settings.method.answers == "policy" and self.config.answerer.name == "extractive":
            return self._answered_by_model(question, user)
        with self._lock:
            held = self._held_of(user)
            found = held.recall(question)
            items = tuple(_recalled(held.lines[item.id], item.score) for item in found)
        (text,) = self._answerer.answer([AnswerRequest(question, found)])
        return Answered(text, items)

    def history(self, id: str = "", *, user: str = "default") -> tuple[Change, ...]:
        """Every change of an item, oldest first; without one, all that was read and written."""
        lines = self.store.lines(_name(user, "user"), item=_name(id, "id", may_be_empty=True))
        return tuple(map(_change, lines))

    def forget(self, id: str = "", *, before: str = "", user: str = "default") -> tuple[str, ...]:
        """Removes an item, or those last written before a time (ISO, UTC where it says no zone); returns their ids.

        The log keeps what they said: it is the history. To be rid of that too, export, edit and import it anew."""
        if bool(id) == bool(before):
            raise UserError("forget needs one of id= and before=")
        limit, user = _utc(before) if before else "", _name(user, "user")
        for _ in range(self.config.tries):
            with self._lock:
                held = self._held_of(user)
                if id:
                    gone = [held.lines[id]] if id in held.lines else []
                else:
                    gone = [line for line in held.lines.values() if line.time < limit]
                ids = [line.item for line in gone]
                memory = held.memory.without(ids)
                if {item.id for item in memory.items} & set(ids):
                    raise UserError(f"memory {self.settings.memory.name} cannot leave out items")
                if not ids:
                    return ()
                now = _now()
                lines = [Line(user, "forget", time=now, source="forget", item=item) for item in ids]
                lines[-1] = replace(lines[-1], state=held.state_of(memory, held.turns))
                try:
                    held.take(memory, self.store.append(user, held.position, lines))
                    return tuple(ids)
                except Moved:
                    continue
        raise UserError(_moved(user, self.config.tries))

    def items(self, *, user: str = "default") -> tuple[Recalled, ...]:
        """All that memory holds, oldest first."""
        with self._lock:
            held = self._held_of(_name(user, "user"))
            return tuple(_recalled(held.lines[item.id], 0.0) for item in held.memory.items)

    def users(self) -> list[str]:
        return self.store.users()

    def tools(self) -> list[dict[str, Any]]:
        """The verbs as tools, in the OpenAI format; `call` carries a call out."""
        return tools.schemas()

    def call(self, name: str, arguments: str | Mapping[str, Any], *, user: str = "default") -> str:
        """What a tool gives, as JSON text for a model. Mistakes in a call are said in the text: a model made them."""
        verbs: dict[str, Callable[..., Any]] = {
            "memory_read": self.read,
            "memory_recall": self.recall,
            "memory_answer": self.answer,
            "memory_history": self.history,
            "memory_forget": self.forget,
        }
        return tools.call(verbs, name, arguments, user)

    async def aread(self, text: Text, *, time: str = "", source: str = "", user: str = "default") -> Written:
        return await asyncio.to_thread(self.read, text, time=time, source=source, user=user)

    async def arecall(self, question: str, k: int = 0, *, user: str = "default") -> tuple[Recalled, ...]:
        return await asyncio.to_thread(self.recall, question, k, user=user)

    async def aanswer(self, question: str, *, user: str = "default") -> Answered:
        return await asyncio.to_thread(self.answer, question, user=user)

    async def ahistory(self, id: str = "", *, user: str = "default") -> tuple[Change, ...]:
        return await asyncio.to_thread(self.history, id, user=user)

    async def aforget(self, id: str = "", *, before: str = "", user: str = "default") -> tuple[str, ...]:
        return await asyncio.to_thread(self.forget, id, before=before, user=user)

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def warm_up(self) -> None:
        """Loads what the first reading would load: the tokenizer, and the model or the way its server is asked."""
        with self._lock:
            _ = self._environment, self._writer

    # ---- parts, made when they are needed ----

    @functools.cached_property
    def _environment(self) -> Environment:
        return writer.load_environment(self._source)

    @functools.cached_property
    def _writer(self) -> writer.Writer:
        return writer.open_writer(self._source, self._environment, self.config, self._lock)

    @functools.cached_property
    def _answerer(self) -> Answerer:
        return resolve("finemem_jax.answerers", self.config.answerer.name).create(self.config.answerer)

    @functools.cached_property
    def _chunk_tokens(self) -> int:
        """Most tokens of a chunk: what the training's had, or what the prompt has room for."""
        env = self._environment
        room = env.prompt.max_prompt_tokens - prompt_tokens("", env) - _SLACK
        if room < _LEAST_TOKENS:
            raise UserError(f"prompt.max_prompt_tokens={env.prompt.max_prompt_tokens} leaves no room for a text")
        return max(min(self.config.chunk_tokens or self.settings.chunking.tokens, room), _LEAST_TOKENS)

    def _held_of(self, user: str) -> Held:
        if user not in self._held:
            self._held[user] = Held(self._environment, self.store, user)
        self._held[user].catch_up()
        return self._held[user]

    def _reading_of(self, user: str) -> threading.Lock:
        with self._lock:
            return self._reading.setdefault(user, threading.Lock())

    # ---- writing ----

    def _chunks(self, text: Text, time: str) -> list[str]:
        layout = self.config.layout or self.settings.chunking.layout
        if isinstance(text, str):
            text = _text(text, "text")
            with self._lock:
                count, budget = self._environment.count_tokens, self._chunk_tokens
                if count(text) <= budget:
                    return [text] if text.strip() else []
                return [text[span.start : span.end] for span in chunking.split_text(text, budget, count)]
        turns = [_conversation.Said(*map(_whole, turn)) for turn in _conversation.read_turns(text, "text")]
        if sum(len(turn.text) for turn in turns) > MOST_CHARACTERS:
            raise UserError(f"text: more than {MOST_CHARACTERS} characters, read it in several pieces")
        with self._lock:
            return _conversation.written(turns, time, layout, self._chunk_tokens, self._environment.count_tokens)

    def _write(self, user: str, chunk: Chunk, said: str, source: str, digest: str) -> list[Line]:
        """One writing turn, as `methods/` plays it; again, where another process wrote meanwhile."""
        method = resolve(METHODS, self.settings.method.name)
        for _ in range(self.config.tries):
            with self._lock:
                env, held = self._environment, self._held_of(user)
                before, position, number = held.memory, held.position, held.turns
                episode = Episode(user, source, (chunk,), ())
                asked = Asked((), ())
                game = method.write_turn(env, episode, chunk, before, number, asked)
                turn, model = next(game), self._writer
            completion = model.complete(env, turn, episode, asked)
            with self._lock:
                step = _ended(game, completion)
                base = Line(user, "read", turn=number, time=_now(), said=said, source=source)
                first = replace(base, text=chunk.text if self.config.keep_text else None, digest=digest)
                lines = [first, *changes(step, before, env, turn.visible, base)]
                lines[-1] = replace(lines[-1], state=held.state_of(step.memory_after, number + 1))
                try:
                    lines = self.store.append(user, position, lines)
                except Moved:
                    continue
                held.take(step.memory_after, lines)
                return lines
        raise UserError(_moved(user, self.config.tries))

    def _answered_by_model(self, question: str, user: str) -> Answered:
        with self._lock:
            env, held = self._environment, self._held_of(user)
            asked = (Question(question, ()),)
            episode = Episode(user, "", (), asked)
            game = answer_turns(env, episode, held.memory, asked, [])
            turn, model = next(game), self._writer
        completion = model.complete(env, turn, episode, Asked((), asked))
        with self._lock:
            (answer,) = _ended(game, completion)()
            lines = {line.item: line for line in held.lines.values()}
            items = (_recalled(lines[item.id], item.score) for item in answer.retrieved if item.id in lines)
            return Answered(answer.text, tuple(items))


def _ended(game: Generator[Turn, Completion, _T], completion: Completion) -> _T:
    """What a game of one turn returns."""
    try:
        game.send(completion)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a method asked for a second completion in one turn")


def _change(line: Line) -> Change:
    return Change(line.verb, line.status, line.item, line.text, line.time, line.source, line.said, line.turn)


def _recalled(line: Line, score: float) -> Recalled:
    return Recalled(line.item, line.text or "", score, line.kind, line.time, line.said, line.source, line.turn or 0)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _utc(given: str) -> str:
    found = _conversation.iso(given) if isinstance(given, str) else None
    if found is None:
        raise UserError(f"before={given!r}: must be a time like 2026-05-08 or 2026-05-08T12:30:00+02:00")
    zoned = found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
    return zoned.astimezone(datetime.UTC).isoformat(timespec="milliseconds")


def _text(given: object, name: str) -> str:
    if not isinstance(given, str):
        raise UserError(f"{name} must be text, got {type(given).__name__}")
    if len(given) > MOST_CHARACTERS:
        raise UserError(f"{name}: more than {MOST_CHARACTERS} characters, give it in several pieces")
    return _whole(given)


def _whole(text: str) -> str:
    """The text without halves of characters, which no tokenizer and no server reads."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _name(given: object, name: str, *, may_be_empty: bool = False) -> str:
    """A short name for people: any characters, for it never becomes a file, a query or a command."""
    if not isinstance(given, str) or not (given or may_be_empty):
        raise UserError(f"{name} must be text that is not empty, got {given!r}")
    if len(given) > MOST_NAME:
        raise UserError(f"{name}: longer than {MOST_NAME} characters")
    return given


def _moved(user: str, tries: int) -> str:
    return (
        f"other processes wrote to the memory of {user!r} during {tries} attempts (config.tries): nothing was written, "
        "try again"
    )
