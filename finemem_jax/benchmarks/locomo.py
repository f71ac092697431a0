"""LoCoMo as published: one episode per conversation, its dated sessions packed into chunks of whole turns.

The data is for non-commercial use only. `config.data.path` or `eval_path` is `locomo10.json` (plain or gzipped) or its
folder. Questions are judged by token F1, as its authors do; the adversarial ones (category 5), which have no answer,
are left out. `Question.kind` is the category, `evidence` the chunks with the annotated turns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from finemem_jax import config, corpora, types
from finemem_jax.benchmarks import _fields, _splits
from finemem_jax.corpora import locomo as corpus
from finemem_jax.corpora._sources import source_of


def load(cfg: config.DataConfig, split: str, seed: int) -> Sequence[types.Episode]:
    """Conversations of a split, see `_splits.load`: `eval_path` is taken whole, of `path` alone some is held out."""
    count_tokens = corpora.token_counter(cfg.tokenizer)

    def read_rows(rows: _splits.Rows, where: str, first: int, file: Path | None) -> Iterator[types.Episode]:
        for number, row in enumerate(rows):
            _check(row, f"{where} row {number}")
            texts, questions = corpus.chunked(dict(row), cfg.chunk_tokens, count_tokens)
            yield types.Episode(
                f"locomo-{row.get('sample_id') or first + number}",
                "locomo",
                tuple(types.Chunk(text, index) for index, text in enumerate(texts)),
                tuple(replace(question, metric=source_of("locomo").metric) for question in questions),
            )

    return _splits.load(cfg, split, seed, read_rows)


def _check(row: Mapping[str, object], where: str) -> None:
    """Raises UserError where a field that is read is not as published."""
    said = _fields.decoded(_fields.field(row, "conversation", where), where, "conversation", dict)
    sessions = [name for name in said if re.fullmatch(r"session_\d+", name)]
    if not sessions:
        raise _fields.wrong(where, "conversation", "an object with session_1, session_2, …", list(said))
    for name in sessions:
        _fields.text(said, f"{name}_date_time", where)
        for i, turn in enumerate(_fields.decoded(said[name], where, f"conversation.{name}", list)):
            field = f"conversation.{name}[{i}]"
            for key in ("speaker", "dia_id", "text"):
                if not isinstance(turn, Mapping) or not isinstance(turn.get(key), str):
                    raise _fields.wrong(where, field, "a turn with speaker, dia_id and text", turn)
    for i, asked in enumerate(_fields.decoded(_fields.field(row, "qa", where), where, "qa", list)):
        if not isinstance(asked, Mapping) or not isinstance(asked.get("question"), str) or "category" not in asked:
            raise _fields.wrong(where, f"qa[{i}]", "an object with question, answer, category and evidence", asked)
        _fields.decoded(asked.get("evidence") or [], where, f"qa[{i}].evidence", list)
