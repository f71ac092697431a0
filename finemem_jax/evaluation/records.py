"""What an evaluation counts: rollouts -> one plain record per episode -> metrics.

The records are what is saved while an evaluation goes on, so the table of one that was killed and went on is the
table of one that was not: both are computed from the same records. Scores are counted here; all else is a measure's
(`measures/`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np

from finemem_jax.config import Config, resolve
from finemem_jax.evaluation.intervals import bootstrap_interval
from finemem_jax.types import Answer, Retrieved, Rollout

_SHOWN_ITEMS = 20  # with more items than this retrieved, only the beginning of each is recorded
_SHOWN_CHARACTERS = 200

Measures = Mapping[str, ModuleType]  # files of measures/ by name


def measures(cfg: Config, *, in_training: bool) -> Measures:
    """Those of the config; in_training: but for those that `finemem evaluate` alone takes."""
    found = {name: resolve("finemem_jax.measures", name) for name in cfg.eval.measures}
    return {name: measure for name, measure in found.items() if measure.IN_TRAINING or not in_training}


def episode_record(rollout: Rollout, taken: Measures, *, has_model: bool = True) -> dict:
    """What the metrics need of one rollout, as plain JSON."""
    final = rollout.final_answers
    return {
        "episode": rollout.episode.id,
        "source": rollout.episode.source,
        "scores": [answer.score for answer in final],
        "kinds": [answer.question.kind for answer in final],
        "measures": {name: measure.record(rollout, has_model) for name, measure in taken.items()},
    }


def record_metrics(records: Sequence[Mapping], taken: Measures, cfg: Config) -> dict[str, float | None]:
    """Scores of a set of episode records, with the columns of the measures.

    accuracy             mean over sources of the mean over episodes of the mean score of the final questions; None
                         where not one of them was answered: nothing is known then, least of all 0
    accuracy/KIND        mean over the questions of one kind ("fact", "changed", "label", …)
    source/NAME          mean over the episodes of one source
    missing_answers      questions the answerer failed on; they are in no mean
    """
    by_kind = defaultdict(list)
    for record in records:
        for kind, score in zip(record["kinds"], record["scores"], strict=True):
            if kind and score is not None:
                by_kind[kind].append(score)
    sources = {name: _mean(values) for name, values in _by_source(records).items()}
    return {
        "accuracy": _mean(list(sources.values())) if sources else None,
        **{f"accuracy/{kind}": _mean(values) for kind, values in sorted(by_kind.items())},
        **({f"source/{name}": value for name, value in sources.items()} if len(sources) > 1 else {}),
        **_measured(records, taken, cfg),
        "missing_answers": float(sum(score is None for record in records for score in record["scores"])),
    }


def _measured(records: Sequence[Mapping], taken: Measures, cfg: Config) -> dict[str, float]:
    columns: dict[str, float] = {}
    for name, measure in taken.items():
        columns |= measure.metrics([record["measures"][name] for record in records], cfg)
    return columns


def interval_metrics(records: Sequence[Mapping], *, resamples: int, seed: int) -> dict[str, float]:
    """What `finemem evaluate` adds: how sure the means are.

    low, high              95 % bootstrap interval of `accuracy` over instances; low/SOURCE and high/SOURCE likewise
    episodes, questions    how many
    """
    by_source = _by_source(records)
    names = [name for name, values in by_source.items() for _ in values]
    means = [value for values in by_source.values() for value in values]
    low, high = bootstrap_interval(means, seed=seed, resamples=resamples, sources=names)
    bounds = {"low": low, "high": high} if means else {}
    if len(by_source) > 1:
        for name, values in by_source.items():
            bounds[f"low/{name}"], bounds[f"high/{name}"] = bootstrap_interval(values, seed=seed, resamples=resamples)
    asked = sum(len(record["scores"]) for record in records)
    return {**bounds, "episodes": len(records), "questions": asked}


def full_record(rollout: Rollout, taken: Measures, *, has_model: bool = True) -> dict:
    """The episode's record with its questions."""
    questions = question_records(rollout, taken)
    return {**episode_record(rollout, taken, has_model=has_model), "questions": questions}


def question_records(rollout: Rollout, taken: Measures) -> list[dict]:
    """One plain record per final question: what was retrieved, which step wrote it, what was answered, and what the
    measures say of it. Of a long list of items (full_context) only their beginnings are kept."""
    found = [_question_record(rollout, answer) for answer in rollout.final_answers]
    for measure in taken.values():
        if hasattr(measure, "questions"):
            for record, columns in zip(found, measure.questions(rollout), strict=True):
                record |= columns
    return found


def _question_record(rollout: Rollout, answer: Answer) -> dict:
    most = _SHOWN_CHARACTERS if len(answer.retrieved) > _SHOWN_ITEMS else None
    return {
        "episode": rollout.episode.id,
        "source": rollout.episode.source,
        "question": answer.question.text,
        "kind": answer.question.kind,
        "gold": list(answer.question.answers),
        "metric": answer.question.metric,
        "answer": answer.text,
        "score": answer.score,
        "problem": answer.reply.problem if answer.reply is not None else "",  # why it is missing
        "retrieved": [_retrieved_record(item, most) for item in answer.retrieved],
    }


def _retrieved_record(item: Retrieved, most: int | None) -> dict:
    return {"id": item.id, "step": item.written_at, "text": item.text[:most], "bm25": round(item.score, 6)}


def _by_source(records: Sequence[Mapping]) -> dict[str, list[float]]:
    """Mean score of every episode that has one, by source."""
    by_source = defaultdict(list)
    for record in records:
        scores = [score for score in record["scores"] if score is not None]
        if scores:
            by_source[record["source"]].append(float(np.mean(scores)))
    return dict(sorted(by_source.items()))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
