"""LoCoMo as published: one episode per conversation, its dated sessions packed into chunks of whole turns.

The data is for non-commercial use only. `config.data.path` or `eval_path` is `locomo10.json` (plain or gzipped) or its
folder. Questions are judged by token F1, as its authors do; the adversarial ones (category 5), which have no answer,
are left out. `Question.kind` is the category, `evidence` the chunks with the annotated turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from finemem_jax import config, corpora, types
from finemem_jax.benchmarks import _splits
from finemem_jax.corpora import locomo as corpus
from finemem_jax.corpora._sources import source_of


def load(cfg: config.DataConfig, split: str, seed: int) -> Sequence[types.Episode]:
    """Conversations of a split, see `_splits.load`: `eval_path` is taken whole, of `path` alone some is held out."""
    count_tokens = corpora.token_counter(cfg.tokenizer)

    def read_row(row: Mapping[str, object], place: _splits.Place) -> Iterator[types.Episode]:
        texts, questions = corpus.chunked(corpus.checked(row, place.where), cfg.chunk_tokens, count_tokens)
        yield types.Episode(
            f"locomo-{row.get('sample_id') or place.number}",
            "locomo",
            tuple(types.Chunk(text, index) for index, text in enumerate(texts)),
            tuple(replace(question, metric=source_of("locomo").metric) for question in questions),
        )

    episodes = _splits.load(cfg, split, seed, lambda file: read_row)
    corpora.keep(count_tokens)
    return episodes
