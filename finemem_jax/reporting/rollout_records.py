"""Rollouts as plain records, for people to look at: what was read, written, kept, asked, answered and rewarded.

    rollouts.jsonl              a line per group in training: {"step", "episode", "source", "chunks", "samples"}
    heldout/episodes.jsonl      a line per held-out episode: {"episode", "source", "chunks"}
    heldout/WHEN POLICY.jsonl   a line per held-out episode: {"episode", "samples"}, one sample each; WHEN is "before",
                                "after" (the newest evaluation) or "baseline"

A sample holds its steps (raw text, operations with their outcome, what changed in memory) and its answers; a sample of
training also its reward terms and advantages per step. Memory is not repeated: M_t is M_{t-1} without `removed`, with
every item of `written` put in its place or appended.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from finemem_jax.evaluation.causes import failures
from finemem_jax.files import write_json_lines
from finemem_jax.types import Answer, Memory, Rollout, Step

HELDOUT = "heldout"
EPISODES = "episodes.jsonl"


def group_record(
    group: Sequence[Rollout],
    terms: Mapping[str, Sequence[np.ndarray]],
    total: Sequence[np.ndarray],
    advantages: Sequence[np.ndarray],
) -> dict:
    """A group of training rollouts. terms, total, advantages: of each sample [turns], NaN where missing (null in
    JSON)."""
    samples = []
    for s, rollout in enumerate(group):
        rewards = {name: of_samples[s].tolist() for name, of_samples in terms.items()}
        scored = {"rewards": rewards, "total": total[s].tolist(), "advantage": advantages[s].tolist()}
        samples.append(sample_record(rollout) | scored)
    return episode_record(group[0]) | {"samples": samples}


def episode_record(rollout: Rollout) -> dict:
    episode = rollout.episode
    return {"episode": episode.id, "source": episode.source, "chunks": [chunk.text for chunk in episode.chunks]}


def sample_record(rollout: Rollout) -> dict:
    """One rollout, without its episode."""
    before = {}
    steps = []
    for step in rollout.steps:
        steps.append(_step_record(step, before))
        before = {item.id: item for item in step.memory_after.items}
    causes = iter(failures(rollout))  # of the final questions
    answers = [answer_record(a, next(causes) if a.chunk is None else "") for a in rollout.answers]
    return {"sample": rollout.sample, "steps": steps, "answers": answers}


def answer_record(answer: Answer, failure: str) -> dict:
    """A question, what was retrieved for it (which step wrote it), and how it was answered. `step` is the chunk's index
    for a chunk question, null for a final one. failure: where a wrong answer comes from (evaluation/causes.py)."""
    question = answer.question
    return {
        "step": answer.chunk,
        "question": question.text,
        "kind": question.kind,
        "gold": list(question.answers),
        "metric": question.metric,
        "answer": answer.text,
        "score": answer.score,
        "failure": failure,
        "retrieved": [
            {"id": item.id, "step": item.written_at, "text": item.text, "bm25": round(item.score, 6)}
            for item in answer.retrieved
        ],
    }


def _step_record(step: Step, before: Mapping[str, object]) -> dict:
    memory: Memory = step.memory_after
    after = {item.id: item for item in memory.items}
    return {
        "text": step.text,
        "finish": step.completion.finish,
        "operations": [
            {
                "name": operation.name,
                "arguments": operation.arguments,
                "status": outcome.status,
                "ok": outcome.ok,
                "item": outcome.item,
                "evicted": list(outcome.evicted),
            }
            for operation, outcome in zip(step.operations, step.outcomes, strict=True)
        ],
        "removed": [name for name in before if name not in after],
        "written": [
            {"id": item.id, "step": item.written_at, "text": item.text, "kind": item.kind}
            for item in memory.items
            if before.get(item.id) != item
        ],
        "memory_tokens": memory.tokens(),
    }


def write_heldout(workdir: Path, when: str, policies: Mapping[str, Sequence[Rollout]], limit: int) -> None:
    """Writes the first `limit` rollouts of every policy of an evaluation, by name; files are replaced as a whole."""
    if not limit:
        return
    for name, rollouts in policies.items():
        chosen = rollouts[:limit]
        write_json_lines(workdir / HELDOUT / EPISODES, [episode_record(rollout) for rollout in chosen])
        records = [{"episode": rollout.episode.id, "samples": [sample_record(rollout)]} for rollout in chosen]
        write_json_lines(workdir / HELDOUT / f"{when} {re.sub('[^A-Za-z0-9_.=-]', '-', name)}.jsonl", records)
