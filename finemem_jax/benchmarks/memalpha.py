"""Episodes in the Memalpha format: the published parquet files, and those that `finemem data build` writes.

One row is one episode:

| column | meaning |
|---|---|
| `chunks` | list of strings, the stream |
| `questions_and_answers` | list of {question, answer}; the answer is a string, or a list of accepted strings |
| `data_source` | selects metric and query prompt, see `SOURCES` |
| `metadata` | an object; optional |
| `prompt`, `instance_id`, `num_chunks`, `num_questions` | not read |

Lists and objects may be JSON text or native columns. Rows of older files name `answers`, of which the first counts.

Two keys of `metadata`, which only our own builder writes, carry what the published rows lack:

    "evidence":        per question, the list of chunk indices that hold its answer
    "chunk_questions": per chunk, a list of {question, answer} about that chunk alone

Chunk questions may also lie beside `name.parquet` in `name.chunk_questions.jsonl`, one object per line and chunk:
{"row": 0, "chunk": 3, "questions": [{"question": …, "answer": …}, …]}, rows and chunks counted from 0. A chunk named
there has these questions and not those of the metadata.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from finemem_jax import config, types

# --------------------------------------------------------------------------------------------------------------
# What a data source is
# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """How the questions of a data source are asked and judged."""

    metric: str  # a function of env/scoring.py
    kind: str  # Question.kind
    query_prompt: str = ""


_NUMBERED = (
    "Classify the text below with the rules and labelled examples in your memory. "
    "Answer with the number of its label alone, as \\boxed{number}."
)
_NAMED = (
    "Classify the text below with the labelled examples in your memory. "
    "Answer with the name of its label alone, written as in the examples."
)
_BOOK = "Your memory holds notes on a book. Answer from them."

# The key that a data_source starts with counts; no key is the start of another. `metric` is what Mem-α trains and
# evaluates with, as far as a function of the text can: its LLM judge of LongMemEval became substring_match.
SOURCES = {
    "squad": Source("substring_match", "fact"),
    "hotpotqa": Source("substring_match", "fact"),
    "perltqa": Source("parts_recall", "fact"),
    "lme_train": Source("substring_match", "fact"),
    "longmemeval": Source("substring_match", "fact"),
    "locomo": Source("token_f1", "fact"),
    "ruler_": Source("substring_match", "fact"),
    "icl_": Source("boxed_match", "label", _NUMBERED),
    "pubmed": Source("boxed_match", "label", _NUMBERED),
    "banking77": Source("exact_match", "label", _NAMED),
    "clinc150": Source("exact_match", "label", _NAMED),
    "nlu": Source("exact_match", "label", _NAMED),
    "booksum": Source("keyword_recall", "summary", _BOOK),
    "squality": Source("rouge_l", "summary", _BOOK),
    "infbench_sum": Source("keyword_recall", "summary", _BOOK),
    "infbench_qa": Source("rouge_l", "fact", "Answer the question below in as few words as possible."),
}

DEFAULT_SOURCE = Source("substring_match", "")  # of a data_source that SOURCES does not know


def source_of(data_source: str) -> Source:
    """The entry of SOURCES for a data_source, DEFAULT_SOURCE where there is none."""
    return next((SOURCES[key] for key in SOURCES if data_source.lower().startswith(key)), DEFAULT_SOURCE)


# --------------------------------------------------------------------------------------------------------------
# Loading
# --------------------------------------------------------------------------------------------------------------

_HELD_OUT = 10  # one row in so many


def load(cfg: config.DataConfig, split: str, seed: int) -> Sequence[types.Episode]:
    """The episodes of `cfg.path` (file, folder or hub name), checked; those of training in an order fixed by `seed`.

    With `cfg.eval_path`, or where a folder or hub dataset holds both splits, each split is read from its own files.
    Otherwise every tenth row of each data source is held out (the last of its rows, where there are fewer than ten):
    the same rows whatever the seed, and none that training sees.
    """
    if split not in ("train", "eval"):
        raise config.UserError(f"split {split!r}: allowed are train, eval")
    field = "eval_path" if split == "eval" and cfg.eval_path else "path"
    path = getattr(cfg, field)
    if not path:
        raise config.UserError(f"config.data.{field} is empty: give a parquet or JSON file, a folder or a hub name")
    parts = _parts(path, field)
    if parts.keys() >= {"train", "eval"}:
        episodes = list(parts[split]())
    else:
        episodes = [episode for read in parts.values() for episode in read()]
        if not cfg.eval_path:
            episodes = _held_out(episodes) if split == "eval" else _not_held_out(episodes)
    kept = [episode for episode in episodes if not cfg.sources or episode.source in cfg.sources]
    if not kept:
        found = ", ".join(sorted({episode.source for episode in episodes})) or "none"
        raise config.UserError(
            f"no episodes in the {split} split of config.data.{field}={path}: config.data.sources={cfg.sources}, "
            f"data sources found: {found}; config.data.eval_path can name a file of its own for evaluation"
        )
    kept = kept[: cfg.limit or None]
    if split == "train":
        random.Random(seed).shuffle(kept)
    return tuple(kept)


def _ranked(episodes: list[types.Episode]) -> Iterator[tuple[types.Episode, bool]]:
    """Each episode, and whether it is held out."""
    rows = Counter(episode.source for episode in episodes)
    seen: Counter[str] = Counter()
    for episode in episodes:
        seen[episode.source] += 1
        rank, total = seen[episode.source], rows[episode.source]
        yield episode, rank % _HELD_OUT == 0 or (1 < total < _HELD_OUT and rank == total)


def _held_out(episodes: list[types.Episode]) -> list[types.Episode]:
    return [episode for episode, is_held_out in _ranked(episodes) if is_held_out]


def _not_held_out(episodes: list[types.Episode]) -> list[types.Episode]:
    return [episode for episode, is_held_out in _ranked(episodes) if not is_held_out]


_SPLIT_NAMES = {"train": ("train",), "eval": ("validation", "val", "dev", "eval", "test")}  # first found counts
_SUFFIXES = (".parquet", ".json", ".jsonl")
_SIDE = ".chunk_questions.jsonl"

_Read = Callable[[], Iterator[types.Episode]]


def _parts(path: str, field: str) -> dict[str, _Read]:
    """How to read each split found at `path`: "train" and "eval", or "" for a file that is not divided.

    Local files are read with pyarrow, without the copy in a cache that `datasets` would make; it also refuses the
    empty frame that one of the published training files is. Names on the hub go through `datasets`.
    """
    if os.path.isdir(path):
        files = sorted(file for file in Path(path).iterdir() if file.suffix in _SUFFIXES and not _is_side_file(file))
        if not files:
            raise config.UserError(f"config.data.{field}={path}: no {', '.join(_SUFFIXES)} file in that folder")
        chosen = {split: _first_named(files, names) for split, names in _SPLIT_NAMES.items()}
        parts = {split: found for split, found in chosen.items() if found} or {"": files}
        return {split: lambda found=found: _read_files(found) for split, found in parts.items()}
    if os.path.isfile(path):
        return {"": lambda: _read_files([Path(path)])}
    if path.endswith(_SUFFIXES) or path.startswith((".", os.sep)) or path.count("/") != 1:
        raise config.UserError(f"config.data.{field}={path}: no such file or folder, nor a hub name (owner/name)")
    return _hub_parts(path, field)


def _first_named(files: list[Path], names: tuple[str, ...]) -> list[Path]:
    """The files whose name starts with the first of `names` that any file starts with."""
    by_name = ([file for file in files if file.name.startswith(name)] for name in names)
    return next((found for found in by_name if found), [])


def _is_side_file(file: Path) -> bool:
    return file.name.endswith(_SIDE)


def _hub_parts(name: str, field: str) -> dict[str, _Read]:
    import datasets  # two seconds to import, which local files need not pay

    try:
        there = datasets.get_dataset_split_names(name)
        chosen = {s: next((n for n in names if n in there), None) for s, names in _SPLIT_NAMES.items()}
        found = {split: datasets.load_dataset(name, split=n) for split, n in chosen.items() if n}
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0]
        raise config.UserError(f"config.data.{field}={name}: not on disk, and the hub says: {reason}") from error
    return {split: lambda rows=rows: _episodes(rows, name, {}) for split, rows in found.items()}


def _read_files(files: list[Path]) -> Iterator[types.Episode]:
    total = 0  # of the rows read so far: ids go on from file to file
    for file in files:
        for episode in _episodes(_rows(file), str(file), _side_questions(file), total):
            yield episode
            total += 1


def _rows(file: Path) -> Iterator[Mapping[str, object]]:
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet

            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=64):
                yield from batch.to_pylist()
        elif file.suffix == ".jsonl":
            with file.open(encoding="utf-8") as lines:
                yield from (json.loads(line) for line in lines if line.strip())
        else:
            yield from json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # pyarrow's ArrowInvalid is one too
        raise config.UserError(f"{file} is not {file.suffix[1:]}: {str(error).splitlines()[0]}") from error


# --------------------------------------------------------------------------------------------------------------
# One row
# --------------------------------------------------------------------------------------------------------------

_T = TypeVar("_T", list, dict)
_SideQuestions = Mapping[int, Mapping[int, list]]  # row -> chunk -> questions about that chunk


def _side_questions(file: Path) -> _SideQuestions:
    """What lies in `name.chunk_questions.jsonl` beside `name.parquet`."""
    side = file.with_suffix(_SIDE)
    if not side.is_file():
        return {}
    questions: dict[int, dict[int, list]] = defaultdict(dict)
    for number, line in enumerate(side.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            questions[int(entry["row"])][int(entry["chunk"])] = list(entry["questions"])
        except (ValueError, KeyError, TypeError) as error:
            raise config.UserError(f"{side} line {number}: want row, chunk and questions, got {line[:80]!r}") from error
    return questions


def _episodes(
    rows: Iterable[Mapping[str, object]], path: str, side: _SideQuestions, first: int = 0
) -> Iterator[types.Episode]:
    for number, row in enumerate(rows):
        yield _episode(row, first + number, f"{path} row {number}", side.get(number, {}))


def _episode(row: Mapping[str, object], number: int, where: str, side: Mapping[int, list]) -> types.Episode:
    """One row as an episode. Raises UserError that names row and field."""
    data_source = _field(row, "data_source", where)
    if not isinstance(data_source, str) or not data_source:
        raise _wrong(where, "data_source", "a name", data_source)
    source = source_of(data_source)
    texts = _decoded(_field(row, "chunks", where), where, "chunks", list)
    metadata = _decoded(row.get("metadata") or {}, where, "metadata", dict)
    evidence = _decoded(metadata.get("evidence") or [], where, "metadata.evidence", list)
    chunk_questions = _decoded(metadata.get("chunk_questions") or [], where, "metadata.chunk_questions", list)
    entries = _decoded(_field(row, "questions_and_answers", where), where, "questions_and_answers", list)
    if not texts:
        raise _wrong(where, "chunks", "at least one chunk", texts)
    for name, value, length in (("evidence", evidence, len(entries)), ("chunk_questions", chunk_questions, len(texts))):
        if value and len(value) != length:
            raise _wrong(where, f"metadata.{name}", f"{length} entries", f"{len(value)} entries")

    chunks = []
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise _wrong(where, f"chunks[{index}]", "text", text)
        own = side.get(index, chunk_questions[index] if chunk_questions else [])
        field = f"chunk_questions[{index}]"
        about = [_question(q, source, where, f"{field}[{i}]", (index,)) for i, q in enumerate(own or ())]
        chunks.append(types.Chunk(text, index, tuple(about)))
    questions = [
        _question(
            entry,
            source,
            where,
            f"questions_and_answers[{i}]",
            _indices(evidence[i] if evidence else (), len(texts), where, f"metadata.evidence[{i}]"),
        )
        for i, entry in enumerate(entries)
    ]
    return types.Episode(f"{data_source}-{number}", data_source, tuple(chunks), tuple(questions), source.query_prompt)


def _question(entry: object, source: Source, where: str, field: str, evidence: tuple[int, ...]) -> types.Question:
    if not isinstance(entry, Mapping):
        raise _wrong(where, field, "an object with question and answer", entry)
    text = entry.get("question")
    if not isinstance(text, str) or not text.strip():
        raise _wrong(where, f"{field}.question", "text", text)
    answer = entry.get("answer")
    if answer is None and isinstance(entry.get("answers"), list):
        answer = entry["answers"][:1]
    answers = tuple(_answer_texts(answer))
    if not answers:
        raise _wrong(where, f"{field}.answer", "text or a list of texts", answer)
    return types.Question(text, answers, source.metric, source.kind, evidence)


def _answer_texts(answer: object) -> Iterator[str]:
    """The accepted texts in an answer: a string, a number, {"text": …}, or a list of these, nested or not."""
    if isinstance(answer, str):
        if answer.strip():
            yield answer
    elif isinstance(answer, int | float) and not isinstance(answer, bool):
        yield str(answer)
    elif isinstance(answer, list):
        for inner in answer:
            yield from _answer_texts(inner)
    elif isinstance(answer, Mapping):
        yield from _answer_texts(answer.get("text"))


def _indices(value: object, chunks: int, where: str, field: str) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(type(i) is int and 0 <= i < chunks for i in value):
        raise _wrong(where, field, f"chunk indices from 0 to {chunks - 1}", value)
    return tuple(value)


def _field(row: Mapping[str, object], name: str, where: str) -> object:
    if row.get(name) is None:
        raise config.UserError(f"{where}: field {name!r} is missing; fields there: {', '.join(row)}")
    return row[name]


def _decoded(value: object, where: str, field: str, kind: type[_T]) -> _T:
    """`value` as a list or dict, decoded where it is JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise _wrong(where, field, f"JSON ({error})", value) from error
    if not isinstance(value, kind):
        raise _wrong(where, field, f"a {kind.__name__}", value)
    return value


def _wrong(where: str, field: str, want: str, got: object) -> config.UserError:
    return config.UserError(f"{where}: field {field!r} must be {want}, got {str(got)[:80]!r}")
