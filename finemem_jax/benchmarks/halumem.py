"""HaluMem as published: one episode per user, questions after the session they are about.

The data is CC BY-NC-ND 4.0: it is read from your path, and nothing of it is shipped. `config.data.eval_path` or `path`
is `HaluMem-Medium.jsonl` or `HaluMem-Long.jsonl`; there is no training split. Sessions come in their order, each cut to
`config.data.chunk_tokens`; the gold memory points of a session stand at its last chunk (`Chunk.points`), its questions
are asked when that has been written (`Question.after`). Sessions made to distract (`is_generated_qa_session`) are fed
and never scored: their points are not known, their questions not asked. `Question.kind` is the question type.

What its authors measure beside answers is in measures/halumem.py; their judge is `config.judge.prompt=halumem`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from finemem_jax import config, corpora, types
from finemem_jax.benchmarks import _splits
from finemem_jax.benchmarks._dialogues import Session, chunked
from finemem_jax.corpora import _fields
from finemem_jax.corpora._sources import Source

SOURCES = {"halumem": Source("token_f1", "fact", reference="", judge="halumem")}
OVERLAPS = (("halumem", ("halumem",), "HaluMem-Medium and HaluMem-Long hold the same users and memory points"),)
_BOUNDARY = "Memory Boundary"  # its right answer is that memory does not say it


def load(cfg: config.DataConfig, split: str, seed: int) -> Sequence[types.Episode]:
    """All users at `cfg.eval_path`, or else at `cfg.path`, in their order there."""
    count_tokens = corpora.token_counter(cfg.tokenizer)

    def read_row(row: Mapping[str, object], place: _splits.Place) -> Iterator[types.Episode]:
        yield _user(row, place, cfg.chunk_tokens, count_tokens)

    episodes = _splits.load_whole(cfg, split, lambda file: read_row, "halumem")
    corpora.keep(count_tokens)
    return episodes


def _user(
    row: Mapping[str, object], place: _splits.Place, chunk_tokens: int, count_tokens: types.CountTokens
) -> types.Episode:
    where = place.where
    name = str(row.get("uuid") or place.number)
    published = [
        _fields.mapping(session, where, f"sessions[{i}]")
        for i, session in enumerate(_fields.listed(row, "sessions", where))
    ]
    sessions = [_session(session, i, where) for i, session in enumerate(published)]
    chunks, places = chunked(sessions, chunk_tokens, count_tokens)
    if not chunks:
        raise _fields.wrong(where, "sessions", "sessions with a turn", published)
    holders: dict[str, tuple[int, ...]] = {}  # a point's text -> chunks of the session that says it
    questions: list[types.Question] = []
    last = 0  # chunk written before a session, for one without a word
    for i, (session, read) in enumerate(zip(published, sessions, strict=True)):
        last = max((last, *places[read.name]))
        if read.points is None:
            continue
        for point in read.points:
            holders[point.text] = places[read.name]
        asked = _fields.decoded(session.get("questions") or [], where, f"sessions[{i}].questions", list)
        for j, entry in enumerate(asked):
            field = f"sessions[{i}].questions[{j}]"
            question = _question(_fields.mapping(entry, where, field), f"{where} {field}", holders)
            questions.append(replace(question, after=last, id=f"{name}/{i}/{j}"))
    return types.Episode(f"halumem-{name}", "halumem", chunks, tuple(questions))


def _session(session: Mapping[str, object], number: int, where: str) -> Session:
    field = f"sessions[{number}]"
    date = str(session.get("start_time") or "")
    turns = []
    for i, turn in enumerate(_fields.decoded(session.get("dialogue") or [], where, f"{field}.dialogue", list)):
        said = _fields.mapping(turn, where, f"{field}.dialogue[{i}]")
        if not isinstance(said.get("role"), str) or not isinstance(said.get("content"), str):
            raise _fields.wrong(where, f"{field}.dialogue[{i}]", "a turn with role and content", turn)
        if str(said["content"]).strip():
            turns.append((str(said["role"]).capitalize(), str(said["content"])))
    points: tuple[types.Point, ...] | None = None
    if not _is_true(session.get("is_generated_qa_session")):
        given = _fields.decoded(session.get("memory_points") or [], where, f"{field}.memory_points", list)
        points = tuple(_point(point, where, f"{field}.memory_points[{i}]") for i, point in enumerate(given))
    return Session(f"session {number}", date, tuple(turns), points)


def _point(value: object, where: str, field: str) -> types.Point:
    point = _fields.mapping(value, where, field)
    replaces = tuple(_fields.answer_texts(point.get("original_memories"))) if _is_true(point.get("is_update")) else ()
    return types.Point(
        _fields.text(point, "memory_content", f"{where} {field}"),
        str(point.get("memory_type") or ""),
        _importance(point.get("importance"), where, f"{field}.importance"),
        replaces,
        point.get("memory_source") == "interference",
    )


def _importance(value: object, where: str, field: str) -> float:
    """A number, or text of one; 1 where it is not given."""
    if value is None or value == "":
        return 1.0
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < float("inf"):
        raise _fields.wrong(where, field, "a number, at least 0", value)
    return number


def _question(entry: Mapping[str, object], where: str, holders: Mapping[str, Sequence[int]]) -> types.Question:
    text, kind = _fields.text(entry, "question", where), str(entry.get("question_type") or "")
    gold = _fields.answers(entry.get("answer"), where, "answer")
    evidence = set()
    for i, named in enumerate(_fields.decoded(entry.get("evidence") or [], where, "evidence", list)):
        named = (
            named if isinstance(named, str) else _fields.mapping(named, where, f"evidence[{i}]").get("memory_content")
        )
        evidence |= set(holders.get(str(named), ()))
    metric = "abstention" if kind == _BOUNDARY else SOURCES["halumem"].metric
    return types.Question(text, gold, metric, kind, tuple(sorted(evidence)))


def _is_true(value: object) -> bool:
    """The published files say "True" and "False" as texts in one place and as such in another."""
    return value is True or (isinstance(value, str) and value.strip().lower() == "true")
