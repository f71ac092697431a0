"""LongMemEval as published: one episode per question, its haystack of dated sessions packed into chunks.

`config.data.path` or `eval_path` is a file of the oracle, S or M version (JSON or JSON lines, plain or gzipped), a
folder or a hub name. `Question.kind` is the question type, `evidence` the chunks with the turns marked `has_answer`
(all chunks of the question's sessions, where no turn is marked), `id` its `question_id`. They are judged by
substring_match, stricter than the authors' judge, which is `config.judge.prompt=longmemeval`. Questions that ask for an
abstention (`…_abs`) are left out; with `config.data.abstention` they are asked, and right is who says that it is not
known (kind "abstention", by a list of phrases, or by a judge).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from finemem_jax import config, corpora, types
from finemem_jax.benchmarks import _splits
from finemem_jax.corpora import _times
from finemem_jax.corpora import longmemeval as corpus
from finemem_jax.corpora._sources import source_of


def load(cfg: config.DataConfig, split: str, seed: int) -> Sequence[types.Episode]:
    """The questions of a split, see `_splits.load`: `eval_path` is taken whole, of `path` alone a tenth is held out."""
    count_tokens = corpora.token_counter(cfg.tokenizer)

    def read_row(row: Mapping[str, object], place: _splits.Place) -> Iterator[types.Episode]:
        record = corpus.checked(row, place.where)
        is_unknown = corpus.asks_for_abstention(record)
        if is_unknown and not cfg.abstention:
            return
        sessions = [(record, i) for i in range(len(record["haystack_sessions"]))]
        texts, questions = corpus.chunked([record], sessions, cfg.chunk_tokens, count_tokens)
        yield types.Episode(
            f"longmemeval-{record['question_id']}",
            "longmemeval",
            tuple(types.Chunk(text, index, time=_times.of_chunk(text)) for index, text in enumerate(texts)),
            tuple(_asked(question, record["question_id"], is_unknown) for question in questions),
        )

    episodes = _splits.load(cfg, split, seed, lambda file: read_row)
    corpora.keep(count_tokens)
    return episodes


def _asked(question: types.Question, name: str, is_unknown: bool) -> types.Question:
    if is_unknown:
        return replace(question, metric="abstention", kind="abstention", id=name)
    return replace(question, metric=source_of("longmemeval").metric, id=name)
