"""The reward of every step of a batch of groups: each term by itself, and their weighted sum.

What could not be answered (the answerer failed) is missing, never zero, and no sample is compared with another on a
fault of the infrastructure:

- a question that one sample of a group got no answer to is left out for the whole group;
- where no question is left that a term at step t is made of, the group has no reward at that step, hence no gradient.
  The rest of the terms must not stand for the whole: format and compression alone are highest for a policy that
  writes nothing, so an answerer that fails would teach it to.

How many (group, step) pairs are left out is reported, and watched by an alarm (`guards.missing_rewards`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from finemem_jax.config import RewardsConfig, resolve
from finemem_jax.types import Answer, CountTokens, Rollout


@dataclass(frozen=True, slots=True)
class StepRewards:
    """Arrays are [groups, samples, steps], NaN where a rollout has no such step."""

    total: np.ndarray  # NaN also where the group has no reward at the step, because a term is missing
    terms: dict[str, np.ndarray]  # unweighted, only those with a weight; missing ones are NaN
    missing: int  # (group, step) pairs without a reward because a term is missing
    pairs: int = 0  # all of them


def step_rewards(groups: Sequence[Sequence[Rollout]], cfg: RewardsConfig, count_tokens: CountTokens) -> StepRewards:
    """r_t = Σ_terms w_term r_term(t) for every sample of every group. Terms of weight 0 are not computed."""
    groups = [answered_alike(group) for group in groups]
    samples = max((len(group) for group in groups), default=0)
    steps = max((len(rollout.steps) for group in groups for rollout in group), default=0)
    shape = (len(groups), samples, steps)
    exists = np.zeros(shape, dtype=bool)
    for g, group in enumerate(groups):
        for s, rollout in enumerate(group):
            exists[g, s, : len(rollout.steps)] = True
    total, terms = np.zeros(shape), {}
    left_out = np.zeros((len(groups), 1, steps), dtype=bool)
    for name, weight in cfg.weights.items():
        if weight == 0:
            continue
        compute = resolve("finemem_jax.rewards", name).step_rewards
        term = np.full(shape, np.nan)
        for g, group in enumerate(groups):
            for s, rollout in enumerate(group):
                term[g, s, : len(rollout.steps)] = compute(rollout, cfg, count_tokens)
        left_out |= (exists & np.isnan(term)).any(axis=1, keepdims=True)
        total += weight * np.where(exists, term, 0.0)
        terms[name] = term
    pairs = int(exists.any(axis=1).sum())
    return StepRewards(np.where(exists & ~left_out, total, np.nan), terms, int(left_out.sum()), pairs)


def answered_alike(group: Sequence[Rollout]) -> list[Rollout]:
    """The samples of a group, a question that one of them got no answer to unanswered for all.

    Left out for that sample alone, it would be judged by other questions than those it is compared with. All samples
    of a group are asked the same, so the n-th question of a step (or of the final ones) is the same for all.
    """
    lost = {key for rollout in group for key, answer in _numbered(rollout) if answer.score is None}
    if not lost:
        return list(group)
    return [
        replace(rollout, answers=tuple(replace(a, score=None) if key in lost else a for key, a in _numbered(rollout)))
        for rollout in group
    ]


def _numbered(rollout: Rollout) -> list[tuple[tuple[int | None, int], Answer]]:
    """Every answer with its step (None: a final one) and its number among those of the step."""
    seen: Counter[int | None] = Counter()
    numbered = []
    for answer in rollout.answers:
        numbered.append(((answer.step, seen[answer.step]), answer))
        seen[answer.step] += 1
    return numbered


def variance_shares(rewards: StepRewards, weights: Mapping[str, float], advantages: np.ndarray) -> dict[str, float]:
    """Of every term the share of the advantages' variance that it makes: what the policy is really trained on.

    An advantage is a sum over the terms, A = Σ_k A_k with A_k = w_k (r_k - mean r_k) / deviation, so
    share_k = Σ A_k A / Σ A A over all samples and steps. The shares sum to 1; a term that works against the others has
    a negative one. All 0 where there is no advantage at all.

    advantages: [groups, samples, steps], of `rewards.total`; steps without a reward count nowhere. Example: two samples
    that differ in format alone give format 1 and all other terms 0, whatever their weights.
    """
    exists = ~np.isnan(rewards.total)
    centred_total = around_group_mean(rewards.total, exists)
    advantages = np.where(exists, advantages, 0.0).astype(np.float64)
    variance = (advantages**2).sum()
    spread = (centred_total**2).sum(axis=1, keepdims=True)
    scale = np.sqrt((advantages**2).sum(axis=1, keepdims=True) / np.where(spread > 0, spread, 1.0))  # 1 / deviation
    shares = {}
    for name, term in rewards.terms.items():
        part = weights[name] * around_group_mean(term, exists) * scale
        shares[name] = float((part * advantages).sum() / variance) if variance else 0.0
    return shares


def around_group_mean(values: np.ndarray, exists: np.ndarray) -> np.ndarray:
    """Minus the group's mean at the same step; 0 where there is no such step."""
    count = np.maximum(exists.sum(axis=1, keepdims=True), 1)
    mean = np.where(exists, values, 0.0).sum(axis=1, keepdims=True) / count
    return np.where(exists, values - mean, 0.0)


def asks_chunk_questions(cfg: RewardsConfig) -> bool:
    """Whether any term with a weight reads the answers to chunk questions."""
    return any(
        weight != 0 and getattr(resolve("finemem_jax.rewards", name), "ASKS_CHUNK_QUESTIONS", False)
        for name, weight in cfg.weights.items()
    )
