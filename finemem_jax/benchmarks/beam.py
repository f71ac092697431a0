"""BEAM as published: 100 chats of 128K to 10M tokens, 20 questions each on ten abilities, graded by rubrics.

`config.data.eval_path` or `path` is a parquet or JSON file, a folder or a hub name; there is no training split. A row:

| column | meaning |
|---|---|
| `conversation_id` | of the chat |
| `chat` | messages {role, content, time_anchor, …} in lists in each other, or objects of lists: sessions, plans |
| `probing_questions` | per ability a list of {question, rubric, …}, as JSON or as a Python literal |

A literal is parsed by `_literals.py` and never evaluated. The data source is beam_SIZE (beam_10M, …) where file, split
or row say the size, `Question.kind` the ability. Only a judge can apply a rubric: `config.judge.prompt=beam` is its
authors', and a question without one is left to the judge's reading of the ideal answer. A time anchor stands over its
session.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from finemem_jax import config, corpora, types
from finemem_jax.benchmarks import _literals, _splits
from finemem_jax.benchmarks._dialogues import Session, chunked
from finemem_jax.corpora import _fields
from finemem_jax.corpora._sources import Source

SOURCES = {"beam": Source("llm_judge", "rubric", reference="", judge="beam")}
OVERLAPS = (("beam", ("beam",), "BEAM is published in one part: what was trained on it is what is asked here"),)
_SIZE = re.compile(r"(?<![0-9A-Za-z])(100K|128K|500K|1M|10M)(?![0-9A-Za-z])", re.IGNORECASE)
_DEEPEST = 8  # lists in each other: a session, its plan, and some to spare
# The gold answer has another name for every ability
_GOLD = (
    "ideal_response",
    "ideal_answer",
    "answer",
    "ideal_summary",
    "expected_compliance",
    "expected_response",
    "ideal_abstention",
)


def load(cfg: config.DataConfig, split: str, seed: int) -> Sequence[types.Episode]:
    """All chats at `cfg.eval_path`, or else at `cfg.path`, in their order there."""
    count_tokens = corpora.token_counter(cfg.tokenizer)

    def read_row(row: Mapping[str, object], place: _splits.Place) -> Iterator[types.Episode]:
        yield _chat(row, place, cfg.chunk_tokens, count_tokens)

    episodes = _splits.load_whole(cfg, split, lambda file: read_row, "beam")
    corpora.keep(count_tokens)
    return episodes


def _chat(
    row: Mapping[str, object], place: _splits.Place, chunk_tokens: int, count_tokens: types.CountTokens
) -> types.Episode:
    where = place.where
    name = str(row.get("conversation_id") or place.number)
    size = _SIZE.search(str(row.get("size") or "")) or _SIZE.search(where)
    source = f"beam_{size.group(1).upper()}" if size else "beam"
    chat = _value(_fields.field(row, "chat", where), where, "chat")
    chunks, _ = chunked(list(_sessions(chat, where)), chunk_tokens, count_tokens)
    if not chunks:
        raise _fields.wrong(where, "chat", "lists of messages with role and content", chat)
    asked = _value(_fields.field(row, "probing_questions", where), where, "probing_questions")
    questions = []
    for ability, entries in _fields.mapping(asked, where, "probing_questions").items():
        field = f"probing_questions[{ability!r}]"
        for i, entry in enumerate(_fields.decoded(entries, where, field, list)):
            question = _question(_fields.mapping(entry, where, f"{field}[{i}]"), str(ability), f"{where} {field}[{i}]")
            questions.append(replace(question, id=f"{name}/{ability}/{i}"))
    if not questions:
        raise _fields.wrong(where, "probing_questions", "at least one question", asked)
    return types.Episode(f"{source}-{name}", source, chunks, tuple(questions))


def _value(value: object, where: str, field: str) -> object:
    """A cell as it is, or decoded: JSON, else a Python literal."""
    if not isinstance(value, str):
        return value
    try:
        return _fields.loads(value)
    except ValueError:
        pass
    try:
        return _fields.whole(_literals.parse(value))
    except ValueError as error:
        raise _fields.wrong(where, field, f"JSON or a Python literal ({error})", value) from error


def _sessions(chat: object, where: str) -> Iterator[Session]:
    """The innermost lists of messages, in their order. Numbered over the whole chat."""
    for number, messages in enumerate(_lists(chat, where, 0)):
        date, turns = "", []
        for message in messages:
            date = date or str(message.get("time_anchor") or "")
            role, text = message.get("role"), message.get("content")
            if not isinstance(role, str) or not isinstance(text, str):
                raise _fields.wrong(where, "chat", "messages with role and content", message)
            if text.strip():
                turns.append((role.capitalize(), text))
        yield Session(f"session {number}", date, tuple(turns))


def _lists(value: object, where: str, level: int) -> Iterator[list[Mapping[str, object]]]:
    if level > _DEEPEST:
        raise _fields.wrong(where, "chat", f"at most {_DEEPEST} lists in each other", value)
    if isinstance(value, Mapping):
        value = [value] if "content" in value else list(value.values())
    if not isinstance(value, list):
        raise _fields.wrong(where, "chat", "lists of messages", value)
    run: list[Mapping[str, object]] = []
    for entry in value:
        if isinstance(entry, Mapping) and "content" in entry:
            run.append(entry)
        elif entry:
            if run:
                yield run
                run = []
            yield from _lists(entry, where, level + 1)
    if run:
        yield run


def _question(entry: Mapping[str, object], ability: str, where: str) -> types.Question:
    rubric = tuple(_fields.answer_texts(entry.get("rubric")))
    gold = next((found for name in _GOLD if (found := tuple(_fields.answer_texts(entry.get(name))))), rubric)
    if not gold:
        raise _fields.wrong(where, "rubric", "a rubric, or an ideal answer", entry.get("rubric"))
    text = _fields.text(entry, "question", where)
    return types.Question(text, gold, SOURCES["beam"].metric, ability, rubric=rubric)
