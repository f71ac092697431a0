"""The reward of every step of a batch of groups: each term by itself, and their weighted sum.

A term that could not be computed (the answerer failed) is missing, not zero: when it is missing for one sample
of a group at step t, the whole group is left out of that term at that step, so that no sample is compared with
another on an infrastructure fault. The number of such gaps is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finemem_jax.config import RewardsConfig, resolve
from finemem_jax.types import CountTokens, Rollout


@dataclass(frozen=True, slots=True)
class StepRewards:
    """Arrays are [groups, samples, steps], NaN where a rollout has no such step."""

    total: np.ndarray
    terms: dict[str, np.ndarray]  # unweighted, only those with a weight; missing ones are NaN
    missing: int  # (group, step) pairs left out of some term


def step_rewards(groups: Sequence[Sequence[Rollout]], cfg: RewardsConfig, count_tokens: CountTokens) -> StepRewards:
    """r_t = Σ_terms w_term r_term(t) for every sample of every group. Terms of weight 0 are not computed."""
    samples = max((len(group) for group in groups), default=0)
    steps = max((len(rollout.steps) for group in groups for rollout in group), default=0)
    shape = (len(groups), samples, steps)
    exists = np.zeros(shape, dtype=bool)
    for g, group in enumerate(groups):
        for s, rollout in enumerate(group):
            exists[g, s, : len(rollout.steps)] = True
    total, terms, missing = np.zeros(shape), {}, 0
    for name, weight in cfg.weights.items():
        if weight == 0:
            continue
        compute = resolve("finemem_jax.rewards", name).step_rewards
        term = np.full(shape, np.nan)
        for g, group in enumerate(groups):
            for s, rollout in enumerate(group):
                term[g, s, : len(rollout.steps)] = compute(rollout, cfg, count_tokens)
        gaps = (exists & np.isnan(term)).any(axis=1, keepdims=True)  # [groups, 1, steps]
        missing += int(gaps.sum())
        total += weight * np.where(gaps | ~exists, 0.0, term)
        terms[name] = term
    return StepRewards(np.where(exists, total, np.nan), terms, missing)


def asks_chunk_questions(cfg: RewardsConfig) -> bool:
    """Whether any term with a weight reads the answers to chunk questions."""
    return any(
        weight != 0 and getattr(resolve("finemem_jax.rewards", name), "ASKS_CHUNK_QUESTIONS", False)
        for name, weight in cfg.weights.items()
    )
