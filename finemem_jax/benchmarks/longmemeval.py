"""LongMemEval as published: one episode per question, its haystack of dated sessions packed into chunks.

`config.data.path` or `eval_path` is a file of the oracle, S or M version (JSON or JSON lines, plain or gzipped), a
folder or a hub name. `Question.kind` is the question type, `evidence` the chunks with the turns marked `has_answer`
(all chunks of the question's sessions, where no turn is marked). Questions that ask for an abstention (`…_abs`), which
only a judge can score, are left out; the others are judged by substring_match, stricter than the authors' judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from finemem_jax import config, corpora, types
from finemem_jax.benchmarks import _splits
from finemem_jax.corpora import longmemeval as corpus
from finemem_jax.corpora._sources import source_of


def load(cfg: config.DataConfig, split: str, seed: int) -> Sequence[types.Episode]:
    """The questions of a split, see `_splits.load`: `eval_path` is taken whole, of `path` alone a tenth is held out."""
    count_tokens = corpora.token_counter(cfg.tokenizer)

    def read_row(row: Mapping[str, object], place: _splits.Place) -> Iterator[types.Episode]:
        record = corpus.checked(row, place.where)
        if corpus.asks_for_abstention(record):
            return
        sessions = [(record, i) for i in range(len(record["haystack_sessions"]))]
        texts, questions = corpus.chunked([record], sessions, cfg.chunk_tokens, count_tokens)
        yield types.Episode(
            f"longmemeval-{record['question_id']}",
            "longmemeval",
            tuple(types.Chunk(text, index) for index, text in enumerate(texts)),
            tuple(replace(question, metric=source_of("longmemeval").metric) for question in questions),
        )

    episodes = _splits.load(cfg, split, seed, lambda file: read_row)
    corpora.keep(count_tokens)
    return episodes
