"""Episodes in the Memalpha format: the published parquet files, and those that `finemem data build` writes.

One row is one episode:

| column | meaning |
|---|---|
| `chunks` | list of strings, the stream |
| `questions_and_answers` | list of {question, answer}; the answer is a string, or a list of accepted strings |
| `data_source` | selects metric and query prompt, see corpora/_sources.py |
| `metadata` | an object; optional |
| `prompt`, `instance_id`, `num_chunks`, `num_questions` | not read |

Lists and objects may be JSON text or native columns. Rows of older files name `answers`, of which the first counts.

Four keys of `metadata`, which only our own builder writes, carry what the published rows lack:

    "evidence":        per question, the list of chunk indices that hold its answer
    "kinds":           per question, its kind for reports ("" = the source's)
    "chunk_questions": per chunk, a list of {question, answer} about that chunk alone
    "points":          per chunk, a list of the facts in it (`types.Point`: text, kind, value, about, replaces), or null

A question may also have `lines`: the lines of its evidence, word for word, that hold the answer.

Chunk questions may also lie beside `name.parquet` in `name.chunk_questions.jsonl`, one object per line and chunk:
{"row": 0, "chunk": 3, "questions": [{"question": …, "answer": …}, …]}, rows and chunks counted from 0. A chunk named
there has these questions and not those of the metadata.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path

from finemem_jax import config, types
from finemem_jax.benchmarks import _splits
from finemem_jax.corpora import _fields
from finemem_jax.corpora._sources import Source, source_of

__all__ = ["load", "read_file", "read_row", "source_of"]

_SideQuestions = Mapping[int, Mapping[int, list]]  # row -> chunk -> questions about that chunk


def load(cfg: config.DataConfig, split: str, seed: int) -> Sequence[types.Episode]:
    """The episodes of `cfg.path` (file, folder or hub name), checked: see `_splits.load`."""
    return _splits.load(cfg, split, seed, _open)


def read_file(path: str) -> Iterator[types.Episode]:
    """The episodes of one file, in the order of its rows, without what lies beside it. A bad row raises UserError."""
    return _splits.read_episodes(_splits.read_rows_of(Path(path)), path, 0, _open(None), _splits.BadRows("stop"))


def read_row(row: Mapping[str, object], place: _splits.Place) -> Iterator[types.Episode]:
    yield _episode(row, place.number, place.where, {})


def _open(file: Path | None) -> _splits.ReadRow:
    """The rows of a file with the chunk questions that lie beside it."""
    side = {} if file is None else _side_questions(file)

    def read(row: Mapping[str, object], place: _splits.Place) -> Iterator[types.Episode]:
        yield _episode(row, place.number, place.where, side.get(place.row, {}))

    return read


def _side_questions(file: Path) -> _SideQuestions:
    """What lies in `name.chunk_questions.jsonl` beside `name.parquet`."""
    side = file.with_suffix(_splits.SIDE)
    if not side.is_file():
        return {}
    questions: dict[int, dict[int, list]] = defaultdict(dict)
    for number, entry in enumerate(_splits.read_rows_of(side)):
        where = f"{side} row {number}"
        if isinstance(entry, config.UserError):
            raise entry
        row, chunk = (_fields.field(entry, name, where) for name in ("row", "chunk"))
        if type(row) is not int or type(chunk) is not int:
            raise _fields.wrong(where, "row, chunk", "numbers from 0", [row, chunk])
        questions[row][chunk] = _fields.listed(entry, "questions", where)
    return questions


def _episode(row: Mapping[str, object], number: int, where: str, side: Mapping[int, list]) -> types.Episode:
    """One row as an episode. Raises UserError that names row and field."""
    data_source = _fields.field(row, "data_source", where)
    if not isinstance(data_source, str) or not data_source:
        raise _fields.wrong(where, "data_source", "a name", data_source)
    source = source_of(data_source)
    texts = _fields.listed(row, "chunks", where)
    metadata = _fields.decoded(row.get("metadata") or {}, where, "metadata", dict)
    evidence = _fields.decoded(metadata.get("evidence") or [], where, "metadata.evidence", list)
    kinds = _fields.decoded(metadata.get("kinds") or [], where, "metadata.kinds", list)
    chunk_questions = _fields.decoded(metadata.get("chunk_questions") or [], where, "metadata.chunk_questions", list)
    points = _fields.decoded(metadata.get("points") or [], where, "metadata.points", list)
    entries = _fields.listed(row, "questions_and_answers", where)
    if not texts:
        raise _fields.wrong(where, "chunks", "at least one chunk", texts)
    for name, value, length in (
        ("evidence", evidence, len(entries)),
        ("kinds", kinds, len(entries)),
        ("chunk_questions", chunk_questions, len(texts)),
        ("points", points, len(texts)),
    ):
        if value and len(value) != length:
            raise _fields.wrong(where, f"metadata.{name}", f"{length} entries", f"{len(value)} entries")

    chunks = []
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise _fields.wrong(where, f"chunks[{index}]", "text", text)
        own = side.get(index, chunk_questions[index] if chunk_questions else [])
        field = f"chunk_questions[{index}]"
        own = _fields.decoded(own or [], where, field, list)
        about = [_question(q, source, where, f"{field}[{i}]", (index,)) for i, q in enumerate(own)]
        known = (
            None if not points or points[index] is None else _points(points[index], where, f"metadata.points[{index}]")
        )
        chunks.append(types.Chunk(text, index, tuple(about), points=known))
    questions = [
        _question(
            entry,
            source,
            where,
            f"questions_and_answers[{i}]",
            _fields.indices(evidence[i] if evidence else (), len(texts), where, f"metadata.evidence[{i}]"),
        )
        for i, entry in enumerate(entries)
    ]
    questions = [replace(q, kind=str(kind or q.kind)) for q, kind in zip(questions, kinds or repeat(""), strict=False)]
    return types.Episode(f"{data_source}-{number}", data_source, tuple(chunks), tuple(questions), source.query_prompt)


def _points(entries: object, where: str, field: str) -> tuple[types.Point, ...]:
    found = []
    for i, entry in enumerate(_fields.decoded(entries, where, field, list)):
        point, name = _fields.mapping(entry, where, f"{field}[{i}]"), f"{where} {field}[{i}]"
        about, replaces = (tuple(_fields.answer_texts(point.get(key))) for key in ("about", "replaces"))
        text, value = _fields.text(point, "text", name), str(point.get("value") or "")
        found.append(types.Point(text, str(point.get("kind") or ""), replaces=replaces, value=value, about=about))
    return tuple(found)


def _question(entry: object, source: Source, where: str, field: str, evidence: tuple[int, ...]) -> types.Question:
    if not isinstance(entry, Mapping):
        raise _fields.wrong(where, field, "an object with question and answer", entry)
    text = entry.get("question")
    if not isinstance(text, str) or not text.strip():
        raise _fields.wrong(where, f"{field}.question", "text", text)
    answer = entry.get("answer")
    if answer is None and isinstance(entry.get("answers"), list):
        answer = entry["answers"][:1]
    accepted = _fields.answers(answer, where, f"{field}.answer")
    lines = _fields.decoded(entry.get("lines") or [], where, f"{field}.lines", list)
    if not all(isinstance(line, str) for line in lines):
        raise _fields.wrong(where, f"{field}.lines", "a list of texts", lines)
    return types.Question(text, accepted, source.metric, source.kind, evidence, tuple(lines))
