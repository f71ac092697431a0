"""Your own conversations: a folder of chats in one of the usual forms, as episodes of one user each.

| file       | read as                                                                                     |
|------------|---------------------------------------------------------------------------------------------|
| .jsonl     | a conversation a line                                                                       |
| .json      | a conversation, or a list of them                                                           |
| .csv       | a message a line; --columns names its columns (role, content; user, session, time)          |
| .txt, .md  | turns `Name: text`; a line `---`, or a date in brackets, begins another session             |

A conversation is a list of messages, or an object with `messages` (OpenAI), `conversations` (ShareGPT), or `inputs` and
`outputs` with messages (LangSmith's exports). `user` (or `user_id`) says whose it is, `time` (or
`timestamp`, `created_at`, `start_time`, `date`) when it was; a file without users is one user's. `questions` may stand
in it: `[{"question": …, "answer": …}]`.

The sessions of a user are one history, in the order of their times. Every session begins a chunk, and is cut between
turns where it is long. Train and eval share no user. Without questions in the data, `finemem data questions` writes
them. Nothing leaves this machine here.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from finemem_jax.config import UserError
from finemem_jax.corpora import _conversation, _fields, _options, _questions, _reading
from finemem_jax.corpora._conversation import Said
from finemem_jax.types import CountTokens, Episode, Question

_HOLDS = ("messages", "conversations", "conversation", "turns", "dialogue")
_USERS = ("user_id", "user", "session_user", "owner")
_TIMES = ("time", "timestamp", "created_at", "create_time", "start_time", "date")
_COLUMNS = ("role", "content", "user", "session", "time")
_TURN = re.compile(r"([^\s:\[\]][^:\n\[\]]{0,60}+):[ \t]++(\S.*+)")  # Name: text
_DATED = re.compile(r"\[([^\[\]\n]{1,80}+)\]")


class Session(NamedTuple):
    turns: tuple[Said, ...]
    time: str = ""


@dataclass(frozen=True, slots=True)
class _Conversation:
    user: str
    sessions: tuple[Session, ...]
    questions: tuple[Question, ...] = ()


def episodes(options: _options.BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]:
    columns = _columns(options.columns)
    users: dict[str, list[_Conversation]] = {}
    for path in _reading.find(options.input, "*.jsonl", "*.json", "*.csv", "*.txt", "*.md"):
        for conversation in _read(path, columns):
            users.setdefault(conversation.user, []).append(conversation)
    number = 0
    layout = "lines" if options.layout == "bare" else "dialogue"
    chosen = options.of_split(sorted(users)) if len(users) > 1 else _lone(sorted(users), options)
    if 0 < options.instances < len(chosen):  # drawn, not the first by name
        chosen = options.rng("users").sample(chosen, len(chosen))
    for user in chosen:
        sessions = [session for conversation in users[user] for session in conversation.sessions]
        questions = tuple(question for conversation in users[user] for question in conversation.questions)
        texts = [
            text
            for session in _in_order(sessions)
            for text in _conversation.written(session.turns, session.time, layout, options.chunk_tokens, count_tokens)
        ]
        for run, own in _runs(texts, questions, options):
            found = _questions.episode("conversations", number, run, (), options, is_dialogue=True)
            yield replace(found, questions=own[: options.questions])
            number += 1


def _lone(users: list[str], options: _options.BuildOptions) -> list[str]:
    if options.split == "eval":
        raise UserError(
            f"--input={options.input}: all of it is of one user, and train and eval share none: give the users names, "
            "or build with --split=all"
        )
    return users


def _runs(
    texts: list[str], questions: tuple[Question, ...], options: _options.BuildOptions
) -> Iterator[tuple[list[str], tuple[Question, ...]]]:
    """The history in runs of `--chunks`. Questions given with the data belong to a history that is one run."""
    size = options.chunks or len(texts)
    if questions and len(texts) > size:
        raise UserError(
            f"--chunks={options.chunks}: a user with questions has {len(texts)} chunks, and they are asked of all of "
            "them: give more, or 0"
        )
    for start in range(0, len(texts), size or 1):
        run = texts[start : start + size]
        if len(run) == size or start == 0 or questions:
            yield run, questions


def _in_order(sessions: list[Session]) -> list[Session]:
    """By their times where all have one that can be compared, else as they stand."""
    times = [_conversation.iso(session.time) for session in sessions]
    if any(time is None for time in times):
        return sessions
    order = sorted(range(len(sessions)), key=lambda i: (times[i].replace(tzinfo=None), i))  # type: ignore[union-attr]
    return [sessions[i] for i in order]


# --------------------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------------------


def _read(path: Path, columns: Mapping[str, str]) -> Iterator[_Conversation]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        yield from _read_csv(path, columns)
    elif name.endswith((".txt", ".md")):
        yield from _read_text(path)
    elif name.endswith(".jsonl"):
        for number, row in enumerate(_reading.read_json_lines(path)):
            yield _read_row(row, f"{path} row {number}", path.stem)
    else:
        found = _reading.read_json(path)
        rows = found if isinstance(found, list) and not _is_messages(found) else [found]
        for number, row in enumerate(rows):
            yield _read_row(row, f"{path} row {number}", path.stem)


def _is_messages(value: object) -> bool:
    """Whether a list is one conversation, and not several of them."""
    return isinstance(value, list) and bool(value) and all(
        isinstance(entry, Mapping) and not any(isinstance(entry.get(key), list) for key in _HOLDS) for entry in value
    ) and any(any(key in entry for key in ("role", "from", "speaker")) for entry in value)  # fmt: skip


def _read_row(row: object, where: str, name: str) -> _Conversation:
    if isinstance(row, list):
        return _Conversation(name, (Session(tuple(_conversation.read_turns(row, where))),))
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: must be a conversation, an object or a list of messages")
    user = next((str(row[key]) for key in _USERS if isinstance(row.get(key), str | int)), name)
    time = _time_of(row, where)
    if isinstance(row.get("sessions"), list):
        sessions = tuple(_session(entry, f"{where} sessions[{i}]") for i, entry in enumerate(row["sessions"]))
    else:
        sessions = (Session(tuple(_conversation.read_turns(_messages(row, where), where)), time),)
    return _Conversation(user, sessions, _asked(row, where))


def _session(entry: object, where: str) -> Session:
    if isinstance(entry, list):
        return Session(tuple(_conversation.read_turns(entry, where)))
    row = _fields.mapping(entry, where, "the session")
    return Session(tuple(_conversation.read_turns(_messages(row, where), where)), _time_of(row, where))


def _time_of(row: Mapping[str, object], where: str) -> str:
    return _conversation.time_text(next((row[key] for key in _TIMES if row.get(key)), ""), where)


def _messages(row: Mapping[str, object], where: str) -> list:
    """The messages of a row; of a run of LangSmith, those that went in and those that came out."""
    for key in _HOLDS:
        if isinstance(row.get(key), list):
            return row[key]  # type: ignore[return-value]
    found: list = []
    for key in ("inputs", "outputs", "input", "output"):
        held = row.get(key)
        if isinstance(held, Mapping):
            held = next((held[name] for name in (*_HOLDS, "output", "message") if held.get(name)), held)
        if isinstance(held, list):
            found += [entry for part in held for entry in (part if isinstance(part, list) else [part])]
        elif isinstance(held, Mapping) and ("content" in held or "data" in held):
            found.append(held)
        elif isinstance(held, str) and held:
            found.append({"role": "user" if key.startswith("input") else "assistant", "content": held})
    if not found:
        raise UserError(f"{where}: has no {', '.join(_HOLDS)}, nor inputs and outputs; it has {list(row)[:8]}")
    return found


def _asked(row: Mapping[str, object], where: str) -> tuple[Question, ...]:
    given = row.get("questions") or []
    if not isinstance(given, list):
        raise _fields.wrong(where, "questions", "a list", given)
    found = []
    for i, entry in enumerate(given):
        entry = _fields.mapping(entry, where, f"questions[{i}]")
        answers = _fields.answers(entry.get("answer"), where, f"questions[{i}].answer")
        found.append(Question(_fields.text(entry, "question", f"{where} questions[{i}]"), answers))
    return tuple(found)


def _columns(given: str) -> dict[str, str]:
    """--columns=role=who,content=text -> what each is called in the file."""
    found = {name: name for name in _COLUMNS}
    for part in filter(None, given.split(",")):
        name, equals, column = part.partition("=")
        if name not in _COLUMNS or not equals or not column:
            raise UserError(f"--columns={given}: want NAME=COLUMN, with NAME one of {', '.join(_COLUMNS)}")
        found[name] = column
    return found


def _read_csv(path: Path, columns: Mapping[str, str]) -> Iterator[_Conversation]:
    try:
        rows = list(csv.DictReader(io.StringIO(_reading.read_text(path)), strict=True))
    except csv.Error as error:
        raise UserError(f"{path} is no CSV: {error}") from error
    lacking = [columns[name] for name in ("role", "content") if not rows or columns[name] not in rows[0]]
    if lacking:
        raise UserError(f"{path}: no column {lacking[0]!r}; name yours with --columns=role=…,content=…")
    sessions: dict[tuple[str, str], list[Said]] = {}
    for number, row in enumerate(rows):
        where = f"{path} row {number}"
        if row.get(columns["content"]) is None or row.get(columns["role"]) is None:
            raise UserError(f"{where}: has fewer fields than columns")
        message = {"role": row[columns["role"]], "content": row[columns["content"]], "time": row.get(columns["time"])}
        key = (row.get(columns["user"]) or path.stem, row.get(columns["session"]) or "")
        sessions.setdefault(key, []).extend(_conversation.read_turns([message], where))
    for (user, _), turns in sessions.items():
        yield _Conversation(user, (Session(tuple(turns), turns[0].time if turns else ""),))


def _read_text(path: Path) -> Iterator[_Conversation]:
    """`Name: text` turns; what follows without a name goes on with the turn."""
    sessions: list[Session] = []
    turns: list[Said] = []
    time = ""

    def close() -> None:
        if turns:
            sessions.append(Session(tuple(turns), time))
            turns.clear()

    for line in _reading.read_text(path).splitlines():
        dated = _DATED.match(line)
        if set(line.strip()) <= set("-=*") and len(line.strip()) >= 3:
            close()
            time = ""
            continue
        if dated and not line[dated.end() :].strip():
            close()
            time = _conversation.time_text(dated[1], str(path))
            continue
        spoken = _TURN.fullmatch(line[dated.end() if dated else 0 :].strip())
        if spoken:
            turns.append(Said(spoken[1].strip(), spoken[2], dated[1] if dated else ""))
        elif turns and line.strip():
            turns[-1] = turns[-1]._replace(text=f"{turns[-1].text}\n{line.strip()}")
        elif line.strip():
            raise UserError(f"{path}: begins with {line.strip()[:60]!r}, and a conversation begins with `Name: text`")
    close()
    if not sessions:
        raise UserError(f"{path}: no turn `Name: text` in it")
    yield _Conversation(path.stem, tuple(sessions))
