"""The reward of every step of a batch of groups: each term by itself, and their weighted sum.

A term that could not be computed (the answerer failed) is missing, not zero: when it is missing for one sample
of a group at step t, the whole group is left out of that term at that step, so that no sample is compared with
another on an infrastructure fault. The number of such gaps is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def variance_shares(rewards: StepRewards, weights: Mapping[str, float], advantages: np.ndarray) -> dict[str, float]:
    """Of every term the share of the advantages' variance that it makes: what the policy is really trained on.

    An advantage is a sum over the terms, A = Σ_k A_k with A_k = w_k (r_k - mean r_k) / deviation, so
    share_k = Σ A_k A / Σ A A over all samples and steps. The shares sum to 1; a term that works against the others has
    a negative one. All 0 where there is no advantage at all.

    advantages: [groups, samples, steps], of `rewards.total`. Example: two samples that differ in format alone give
    format 1 and all other terms 0, whatever their weights.
    """
    exists = ~np.isnan(rewards.total)
    centred_total = _centred(rewards.total, exists)
    advantages = np.where(exists, advantages, 0.0).astype(np.float64)
    variance = (advantages**2).sum()
    spread = (centred_total**2).sum(axis=1, keepdims=True)
    scale = np.sqrt((advantages**2).sum(axis=1, keepdims=True) / np.where(spread > 0, spread, 1.0))  # 1 / deviation
    shares = {}
    for name, term in rewards.terms.items():
        gaps = (exists & np.isnan(term)).any(axis=1, keepdims=True)  # left out of the total, as in `step_rewards`
        part = weights[name] * _centred(np.where(gaps, 0.0, term), exists) * scale
        shares[name] = float((part * advantages).sum() / variance) if variance else 0.0
    return shares


def _centred(values: np.ndarray, exists: np.ndarray) -> np.ndarray:
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
