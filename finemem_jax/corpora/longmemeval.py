"""LongMemEval: questions of a user about what was said in earlier, dated sessions with an assistant.

Input: a JSON or JSON-lines file with the fields of the published oracle file, or a folder of them. An instance holds
the sessions of several questions, as many as fit its chunks, and `--noise` sessions of other questions for each, all
in the order of their dates. Questions that ask for an abstention (`…_abs`) are left out. The evidence of a question
are the turns marked `has_answer`, or its whole sessions where no turn is marked. Train and eval share no question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from finemem_jax.corpora import _fields, _options, _questions, _reading, _sessions
from finemem_jax.env import chunking
from finemem_jax.types import CountTokens, Episode, Question


def episodes(options: _options.BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]:
    rows = [row for row in _read(options.input) if not asks_for_abstention(row)]
    chosen = options.of_split(rows)
    rng = options.rng(options.split, "order")
    rng.shuffle(chosen)
    # Drawn once per question, so that filling an instance and writing it see the same sessions.
    unrelated = {
        row["question_id"]: rng.sample([r for r in chosen if r is not row], min(options.noise, len(chosen) - 1))
        for row in chosen
    }

    def filled(run: Sequence[dict]) -> tuple[list[str], list[Question]]:
        asked = {row["question_id"] for row in run}
        others = [
            (other, 0) for row in run for other in unrelated[row["question_id"]] if other["question_id"] not in asked
        ]
        own = [(row, i) for row in run for i in range(len(row["haystack_sessions"]))]
        return chunked(run, [*own, *others], options.chunk_tokens, count_tokens)

    runs = _questions.fill(chosen, lambda run: len(filled(run)[0]), options.chunks)
    for number, run in enumerate(runs):
        yield _questions.episode("longmemeval", number, *filled(run), options, is_dialogue=True)


def checked(row: Mapping[str, object], where: str) -> dict:
    """The fields of a record that are read, as published: lists decoded where they are JSON text, the answer a text.
    Raises UserError where one is not so."""
    record: dict = {name: _fields.text(row, name, where) for name in ("question_id", "question_type", "question")}
    record["answer"] = _fields.answers(row.get("answer"), where, "answer")[0]
    if row.get("question_date") is not None:
        record["question_date"] = _fields.text(row, "question_date", where)
    dates, sessions = (_fields.listed(row, name, where) for name in ("haystack_dates", "haystack_sessions"))
    if not sessions or len(dates) != len(sessions):
        raise _fields.wrong(where, "haystack_dates", f"one per session ({len(sessions)})", f"{len(dates)} dates")
    for i, date in enumerate(dates):
        if not isinstance(date, str):
            raise _fields.wrong(where, f"haystack_dates[{i}]", "text", date)
    record["haystack_dates"] = dates
    record["haystack_sessions"] = [
        [
            _turn(turn, where, f"haystack_sessions[{i}][{j}]")
            for j, turn in enumerate(_fields.decoded(session, where, f"haystack_sessions[{i}]", list))
        ]
        for i, session in enumerate(sessions)
    ]
    if not any(record["haystack_sessions"]):
        raise _fields.wrong(where, "haystack_sessions", "sessions with a turn", sessions)
    return record


def _turn(turn: object, where: str, name: str) -> Mapping[str, object]:
    turn = _fields.mapping(turn, where, name)
    if not all(isinstance(turn.get(key), str) for key in ("role", "content")):
        raise _fields.wrong(where, name, "a turn with role and content", turn)
    return turn


def asks_for_abstention(record: Mapping[str, str]) -> bool:
    """Whether the right answer is that the sessions do not say it, which only a judge can tell."""
    return record["question_id"].endswith("_abs")


def chunked(
    run: Sequence[dict],
    sessions: Sequence[tuple[dict, int]],
    chunk_tokens: int,
    count_tokens: CountTokens,
) -> tuple[list[str], list[Question]]:
    """(contents of the chunks, questions) of an instance. sessions: (row, number of its session), repeats allowed."""
    distinct = {(row["question_id"], i): (row, i) for row, i in sessions}
    dated = sorted(distinct.items(), key=lambda entry: entry[1][0]["haystack_dates"][entry[1][1]])
    pieces: list[str] = []
    holders: dict[str, list[int]] = {row["question_id"]: [] for row in run}  # question -> pieces with its evidence
    for (asker, _), (row, i) in dated:
        turns = row["haystack_sessions"][i]
        is_marked = any(turn.get("has_answer") for session in row["haystack_sessions"] for turn in session)
        spoken = [(turn["role"].capitalize(), turn["content"]) for turn in turns]
        date = row["haystack_dates"][i]
        for part in _sessions.split_session(date, spoken, chunk_tokens, count_tokens):
            if asker in holders and (not is_marked or any(turns[t].get("has_answer") for t in part.turns)):
                holders[asker].append(len(pieces))
            pieces.append(part.text)
    groups = chunking.pack(pieces, chunk_tokens, count_tokens)
    chunk_of = {piece: chunk for chunk, group in enumerate(groups) for piece in group}
    questions = []
    for row in run:
        evidence = tuple(sorted({chunk_of[piece] for piece in holders[row["question_id"]]}))
        questions.append(Question(_question_text(row), (row["answer"],), kind=row["question_type"], evidence=evidence))
    return ["\n\n".join(pieces[i] for i in group) for group in groups], questions


def _question_text(row: dict) -> str:
    """The question; with the day it is asked on where the answer depends on it."""
    is_relative = row["question_type"] == "temporal-reasoning" and row.get("question_date")
    return f"[{row['question_date']}] {row['question']}" if is_relative else row["question"]


def _read(given: str) -> Iterator[dict]:
    seen = set()
    for path in _reading.find(given, "*.json", "*.jsonl"):
        is_lines = path.name.removesuffix(".gz").endswith(".jsonl")
        rows = _reading.read_json_lines(path) if is_lines else _reading.read_list(path)
        for number, row in enumerate(rows):
            where = f"{path} row {number}"
            record = checked(_fields.mapping(row, where, "the row"), where)
            if record["question_id"] not in seen:
                seen.add(record["question_id"])
                yield record
