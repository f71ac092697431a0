"""LoCoMo as published: one episode per conversation, its dated sessions packed into chunks of whole turns.

The data is for non-commercial use only. `config.data.path` or `eval_path` is `locomo10.json` (plain or gzipped) or its
folder. Questions are judged by token F1, as its authors do. `Question.kind` is the category, `evidence` the chunks with
the annotated turns, `id` SAMPLE#PLACE, the place in the row's list of questions, from 0. The adversarial ones (category
5), which have no answer, are left out; with `config.data.abstention` they are asked, and right is who says that it is
not known (kind "abstention").

The judge that memory systems report is `config.judge.prompt=locomo_mem0`. Of its 1,540 questions 99 are said to have a
wrong gold answer: `config.data.wrong_golds` takes your list of their ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from finemem_jax import config, corpora, types
from finemem_jax.benchmarks import _splits
from finemem_jax.corpora import _times
from finemem_jax.corpora import locomo as corpus
from finemem_jax.corpora._sources import source_of


def load(cfg: config.DataConfig, split: str, seed: int) -> Sequence[types.Episode]:
    """Conversations of a split, see `_splits.load`: `eval_path` is taken whole, of `path` alone some is held out."""
    count_tokens = corpora.token_counter(cfg.tokenizer)

    def read_row(row: Mapping[str, object], place: _splits.Place) -> Iterator[types.Episode]:
        conversation = corpus.checked(row, place.where, abstention=cfg.abstention)
        texts, questions = corpus.chunked(conversation, cfg.chunk_tokens, count_tokens)
        name = row.get("sample_id") or place.number
        metrics = {"abstention": "abstention"}  # by kind
        yield types.Episode(
            f"locomo-{name}",
            "locomo",
            tuple(types.Chunk(text, index, time=_times.of_chunk(text)) for index, text in enumerate(texts)),
            tuple(
                replace(q, metric=metrics.get(q.kind, source_of("locomo").metric), id=f"{name}{q.id}")
                for q in questions
            ),
        )

    episodes = _splits.load(cfg, split, seed, lambda file: read_row)
    corpora.keep(count_tokens)
    return episodes
