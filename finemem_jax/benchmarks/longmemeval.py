"""LongMemEval as published: one episode per question, its haystack of dated sessions packed into chunks.

`config.data.path` or `eval_path` is a file of the oracle, S or M version (JSON or JSON lines, plain or gzipped), a
folder or a hub name. `Question.kind` is the question type, `evidence` the chunks with the turns marked `has_answer`
(all chunks of the question's sessions, where no turn is marked). Questions that ask for an abstention (`…_abs`), which
only a judge can score, are left out; the others are judged by substring_match, stricter than the authors' judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from finemem_jax import config, corpora, types
from finemem_jax.benchmarks import _fields, _splits
from finemem_jax.corpora import longmemeval as corpus
from finemem_jax.corpora._sources import source_of


def load(cfg: config.DataConfig, split: str, seed: int) -> Sequence[types.Episode]:
    """The questions of a split, see `_splits.load`: `eval_path` is taken whole, of `path` alone a tenth is held out."""
    count_tokens = corpora.token_counter(cfg.tokenizer)

    def read_rows(rows: _splits.Rows, where: str, first: int, file: Path | None) -> Iterator[types.Episode]:
        for number, row in enumerate(rows):
            _check(row, f"{where} row {number}")
            if row["question_id"].endswith("_abs"):  # type: ignore[attr-defined]
                continue
            sessions = [(dict(row), i) for i in range(len(row["haystack_sessions"]))]  # type: ignore[arg-type]
            texts, questions = corpus.chunked([dict(row)], sessions, cfg.chunk_tokens, count_tokens)
            yield types.Episode(
                f"longmemeval-{row['question_id']}",
                "longmemeval",
                tuple(types.Chunk(text, index) for index, text in enumerate(texts)),
                tuple(replace(question, metric=source_of("longmemeval").metric) for question in questions),
            )

    return _splits.load(cfg, split, seed, read_rows)


def _check(row: Mapping[str, object], where: str) -> None:
    """Raises UserError where a field that is read is not as published."""
    for name in ("question_id", "question_type", "question"):
        _fields.text(row, name, where)
    _fields.answers(row.get("answer"), where, "answer")
    dates = _fields.decoded(_fields.field(row, "haystack_dates", where), where, "haystack_dates", list)
    sessions = _fields.decoded(_fields.field(row, "haystack_sessions", where), where, "haystack_sessions", list)
    if not sessions or len(dates) != len(sessions):
        raise _fields.wrong(where, "haystack_dates", f"one per session ({len(sessions)})", f"{len(dates)} dates")
    for i, session in enumerate(sessions):
        for j, turn in enumerate(_fields.decoded(session, where, f"haystack_sessions[{i}]", list)):
            if not isinstance(turn, Mapping) or not all(isinstance(turn.get(k), str) for k in ("role", "content")):
                raise _fields.wrong(where, f"haystack_sessions[{i}][{j}]", "a turn with role and content", turn)
