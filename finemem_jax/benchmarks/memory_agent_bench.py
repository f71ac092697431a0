"""MemoryAgentBench, for evaluation alone: the rows of Memalpha's copy, or the original ones, which are cut here.

The original schema, one row per history (hub name, or its parquet files):

| column | meaning |
|---|---|
| `context` | the whole history as one text, up to 421k tokens |
| `questions` | list of texts |
| `answers` | per question, the list of accepted answers |
| `metadata` | an object; `source` is the data source, the lists in it (`keypoints`, `qa_pair_ids`, …) are not read |

A context is cut at paragraphs, lines and sentences to `config.data.chunk_tokens` (half of it for classification, whose
examples are short) and wrapped into dated dialogue turns, as Memalpha's rows are. `Question.kind` is the competency,
so that tables show the four side by side, conflict resolution included, which Memalpha's copy leaves out.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from finemem_jax import config, corpora, types
from finemem_jax.benchmarks import _splits, memalpha
from finemem_jax.config import UserError
from finemem_jax.corpora import _fields
from finemem_jax.corpora._sources import source_of

COMPETENCIES = {
    "accurate_retrieval": ("ruler_", "longmemeval", "eventqa"),
    "test_time_learning": ("icl_", "recsys"),
    "long_range_understanding": ("infbench", "detective"),
    "conflict_resolution": ("factconsolidation",),
}
_METRICS = {"infbench_sum": "rouge_l"}  # the original row holds the summary itself; Memalpha's holds its keywords


def competency(data_source: str) -> str:
    """Which of the four a data source tests, "" where it is of none."""
    return next((name for name, starts in COMPETENCIES.items() if data_source.lower().startswith(starts)), "")


def load(cfg: config.DataConfig, split: str, seed: int) -> Sequence[types.Episode]:
    """All episodes at `cfg.eval_path`, or else at `cfg.path`, in their order there. There is no training split."""
    count_tokens = corpora.token_counter(cfg.tokenizer)

    def read_row(row: Mapping[str, object], place: _splits.Place) -> Iterator[types.Episode]:
        if "context" in row:
            yield _original(row, place.number, place.where, cfg.chunk_tokens, count_tokens)
        elif "chunks" in row:
            yield from map(_by_competency, memalpha.read_row(row, place))
        else:
            raise UserError(
                f"{place.where}: neither field 'context' (the original rows) nor 'chunks' (Memalpha's); "
                f"fields there: {_fields.names(row)}"
            )

    episodes = _splits.load_whole(cfg, split, lambda file: read_row, "memory_agent_bench")
    corpora.keep(count_tokens)
    return episodes


def _by_competency(episode: types.Episode) -> types.Episode:
    kind = competency(episode.source)
    return replace(episode, questions=tuple(replace(q, kind=kind or q.kind) for q in episode.questions))


def _original(
    row: Mapping[str, object], number: int, where: str, chunk_tokens: int, count_tokens: types.CountTokens
) -> types.Episode:
    context = _fields.text(row, "context", where)
    metadata = _fields.decoded(row.get("metadata") or {}, where, "metadata", dict)
    data_source = metadata.get("source")
    if not isinstance(data_source, str) or not data_source:
        raise _fields.wrong(where, "metadata.source", "a name", data_source)
    asked, golds = _fields.listed(row, "questions", where), _fields.listed(row, "answers", where)
    if len(asked) != len(golds):
        raise _fields.wrong(where, "answers", f"one entry per question ({len(asked)})", f"{len(golds)} entries")
    source, kind = source_of(data_source), competency(data_source)
    metric = next((name for start, name in _METRICS.items() if data_source.startswith(start)), source.metric)
    questions = []
    for i, (text, gold) in enumerate(zip(asked, golds, strict=True)):
        if not isinstance(text, str) or not text.strip():
            raise _fields.wrong(where, f"questions[{i}]", "text", text)
        questions.append(
            types.Question(text, _fields.answers(gold, where, f"answers[{i}]"), metric, kind or source.kind)
        )
    is_labelled = source.kind == "label"
    budget = chunk_tokens // 2 if is_labelled else chunk_tokens
    rng = random.Random(json.dumps(["memory_agent_bench", data_source, number]))
    chunks = tuple(
        types.Chunk(corpora.wrap(context[span.start : span.end], index, rng, labelled=is_labelled), index)
        for index, span in enumerate(corpora.split_text(context, budget, count_tokens))
    )
    return types.Episode(f"{data_source}-{number}", data_source, chunks, tuple(questions), source.query_prompt)
