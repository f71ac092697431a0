"""LongMemEval: questions of a user about what was said in earlier, dated sessions with an assistant.

Input: a JSON or JSON-lines file with the fields of the published oracle file, or a folder of them. An instance holds
the sessions of several questions, as many as fit its chunks, and `--noise` sessions of other questions for each, all
in the order of their dates. Questions that ask for an abstention (`…_abs`) are left out. The evidence of a question
are the turns marked `has_answer`, or its whole sessions where no turn is marked. Train and eval share no question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finemem_jax.config import UserError
from finemem_jax.corpora import _chunking, _options, _questions, _reading, _sessions
from finemem_jax.types import CountTokens, Episode, Question

_FIELDS = ("question_id", "question_type", "question", "answer", "haystack_dates", "haystack_sessions")


def episodes(options: _options.BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]:
    rows = [row for row in _read(options.input) if not row["question_id"].endswith("_abs")]
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
    groups = _chunking.pack(pieces, chunk_tokens, count_tokens)
    chunk_of = {piece: chunk for chunk, group in enumerate(groups) for piece in group}
    questions = []
    for row in run:
        evidence = tuple(sorted({chunk_of[piece] for piece in holders[row["question_id"]]}))
        questions.append(
            Question(_question_text(row), (str(row["answer"]),), kind=row["question_type"], evidence=evidence)
        )
    return ["\n\n".join(pieces[i] for i in group) for group in groups], questions


def _question_text(row: dict) -> str:
    """The question; with the day it is asked on where the answer depends on it."""
    is_relative = row["question_type"] == "temporal-reasoning" and row.get("question_date")
    return f"[{row['question_date']}] {row['question']}" if is_relative else row["question"]


def _read(given: str) -> Iterator[dict]:
    seen = set()
    for path in _reading.find(given, "*.json", "*.jsonl"):
        is_lines = ".jsonl" in path.name
        for row in _reading.read_json_lines(path) if is_lines else _reading.read_json(path):  # type: ignore
            missing = [name for name in _FIELDS if name not in row]
            if missing:
                raise UserError(f"{path}: a record has no field {', '.join(missing)}")
            if row["question_id"] not in seen:
                seen.add(row["question_id"])
                yield row
