"""What an evaluation counts: rollouts -> one plain record per episode -> metrics.

The records are what is saved while an evaluation goes on, so the table of one that was killed and went on is the
table of one that was not: both are computed from the same records.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from finemem_jax.evaluation.causes import CAUSES, failures
from finemem_jax.evaluation.intervals import bootstrap_interval
from finemem_jax.types import WRITE, Answer, Retrieved, Rollout

_SHOWN_ITEMS = 20  # with more items than this retrieved, only the beginning of each is recorded
_SHOWN_CHARACTERS = 200


def episode_record(rollout: Rollout) -> dict:
    """What the metrics need of one rollout, as plain JSON."""
    final = rollout.final_answers
    copies, applied, valid, formed = [], Counter(), [], []
    for step in rollout.of(WRITE):
        lines = rollout.episode.chunks[step.chunk].text.splitlines()
        for operation, outcome in zip(step.operations, step.outcomes, strict=True):
            valid.append(outcome.ok)
            formed.append(not outcome.status.startswith(("malformed", "unknown id")))
            applied[operation.name] += outcome.ok
            if "content" in operation.arguments:
                copies.append(operation.arguments["content"] in lines)
    memory = rollout.memory
    return {
        "episode": rollout.episode.id,
        "source": rollout.episode.source,
        "scores": [answer.score for answer in final],
        "kinds": [answer.question.kind for answer in final],
        "chunks": len(rollout.episode.chunks),
        "steps": len(rollout.of(WRITE)),
        "operations": len(valid),
        "valid": sum(valid),
        "well_formed": sum(formed),
        "contents": len(copies),
        "copies": sum(copies),
        "applied": {name: count for name, count in sorted(applied.items()) if count},
        "memory_tokens": None if memory is None else memory.tokens(),
        "memory_items": None if memory is None else len(memory.items),
        "completion_tokens": _tokens_written(rollout),
    }


def record_metrics(records: Sequence[Mapping]) -> dict[str, float]:
    """Scores and sizes of a set of episode records.

    accuracy             mean over sources of the mean over episodes of the mean score of the final questions
    accuracy/KIND        mean over the questions of one kind ("fact", "changed", "label", …)
    source/NAME          mean over the episodes of one source
    memory_tokens        length of the final memory; memory_items likewise
    valid_operations     share of the operations written that were well-formed and applied
    well_formed          share that were well-formed and named an item in view, whether or not memory took them
    exact_copy           share of the contents written that are, word for word, a line of their chunk
    operations/NAME      operations of each kind per step, counted if they applied
    completion_tokens    per step
    missing_answers      questions the answerer failed on; they are in no mean
    """
    by_kind, applied = defaultdict(list), Counter()
    for record in records:
        for kind, score in zip(record["kinds"], record["scores"], strict=True):
            if kind and score is not None:
                by_kind[kind].append(score)
        applied.update(record["applied"])
    sources = {name: _mean(values) for name, values in _by_source(records).items()}
    steps = _total(records, "steps")
    return {
        "accuracy": _mean(list(sources.values())),
        **{f"accuracy/{kind}": _mean(values) for kind, values in sorted(by_kind.items())},
        **({f"source/{name}": value for name, value in sources.items()} if len(sources) > 1 else {}),
        "memory_tokens": _mean([r["memory_tokens"] for r in records if r["memory_tokens"] is not None]),
        "memory_items": _mean([r["memory_items"] for r in records if r["memory_items"] is not None]),
        "valid_operations": _ratio(_total(records, "valid"), _total(records, "operations")),
        "well_formed": _ratio(_total(records, "well_formed"), _total(records, "operations")),
        "exact_copy": _ratio(_total(records, "copies"), _total(records, "contents")),
        **{f"operations/{name}": count / max(steps, 1) for name, count in sorted(applied.items())},
        "completion_tokens": _ratio(_total(records, "completion_tokens"), steps),
        "missing_answers": float(sum(score is None for record in records for score in record["scores"])),
    }


def record_details(
    records: Sequence[Mapping], *, resamples: int, seed: int, prices: tuple[float, float]
) -> dict[str, float]:
    """What `finemem evaluate` adds: intervals, causes of the wrong answers, and what was spent.

    low, high              95 % bootstrap interval of `accuracy` over instances; low/SOURCE and high/SOURCE likewise
    episodes, questions    how many
    wrong                  answers below 0.5, and failure/CAUSE, how many of them each cause has (`attribution.py`)
    policy_calls           completions of the policy, 0 where a script writes; policy_prompt_tokens and
                           policy_completion_tokens of all of them
    answer_calls           calls of the answerer, identical ones counted once; answer_prompt_tokens and
                           answer_completion_tokens of them; 0 without a model
    cost                   of these by `prices`, money per million prompt and completion tokens
    """
    by_source = _by_source(records)
    names = [name for name, values in by_source.items() for _ in values]
    means = [value for values in by_source.values() for value in values]
    low, high = bootstrap_interval(means, seed=seed, resamples=resamples, sources=names)
    bounds = {"low": low, "high": high} if means else {}
    if len(by_source) > 1:
        for name, values in by_source.items():
            bounds[f"low/{name}"], bounds[f"high/{name}"] = bootstrap_interval(values, seed=seed, resamples=resamples)
    causes = Counter(question["failure"] for record in records for question in record["questions"])
    calls = {call[0]: call[1:] for record in records for call in record["calls"]}
    prompt_tokens, completion_tokens = (sum(call[i] for call in calls.values()) for i in (0, 1))
    return {
        **bounds,
        "episodes": len(records),
        "questions": sum(len(record["scores"]) for record in records),
        "wrong": sum(causes[cause] for cause in CAUSES),
        **{f"failure/{cause}": causes[cause] for cause in CAUSES},
        "policy_calls": _total(records, "policy_calls"),
        "policy_prompt_tokens": sum(record["policy_tokens"][0] for record in records),
        "policy_completion_tokens": sum(record["policy_tokens"][1] for record in records),
        "answer_calls": len(calls),
        "answer_prompt_tokens": prompt_tokens,
        "answer_completion_tokens": completion_tokens,
        "cost": (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6,
    }


def full_record(rollout: Rollout, has_model: bool = True) -> dict:
    """The episode's record with its questions and the answerer's distinct calls: key, prompt and completion tokens."""
    replies = [answer.reply for answer in rollout.answers if answer.reply is not None and answer.reply.key]
    calls = sorted({(reply.key[:16], reply.prompt_tokens, reply.completion_tokens) for reply in replies})
    return {
        **episode_record(rollout),
        "policy_calls": len(rollout.steps) if has_model else 0,
        "policy_tokens": [0, 0] if not has_model else [_tokens_read(rollout), _tokens_written(rollout)],
        "calls": [list(call) for call in calls],
        "questions": question_records(rollout),
    }


def question_records(rollout: Rollout) -> list[dict]:
    """One plain record per final question: what was retrieved, which step wrote it, what was answered, and, where
    that is wrong, why. Of a long list of items (full_context) only their beginnings are kept."""
    final = rollout.final_answers
    return [
        _question_record(rollout, answer, failure) for answer, failure in zip(final, failures(rollout), strict=True)
    ]


def _question_record(rollout: Rollout, answer: Answer, failure: str) -> dict:
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
        "failure": failure,
        "problem": answer.reply.problem if answer.reply is not None else "",  # why it is missing
        "retrieved": [_retrieved_record(item, most) for item in answer.retrieved],
    }


def _retrieved_record(item: Retrieved, most: int | None) -> dict:
    return {"id": item.id, "step": item.written_at, "text": item.text[:most], "bm25": round(item.score, 6)}


def _tokens_read(rollout: Rollout) -> int:
    return sum(len(step.prompt_tokens) for step in rollout.steps)


def _tokens_written(rollout: Rollout) -> int:
    return sum(len(step.completion.tokens) for step in rollout.steps)


def _by_source(records: Sequence[Mapping]) -> dict[str, list[float]]:
    """Mean score of every episode that has one, by source."""
    by_source = defaultdict(list)
    for record in records:
        scores = [score for score in record["scores"] if score is not None]
        if scores:
            by_source[record["source"]].append(float(np.mean(scores)))
    return dict(sorted(by_source.items()))


def _total(records: Sequence[Mapping], name: str) -> int:
    return sum(record[name] for record in records)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
