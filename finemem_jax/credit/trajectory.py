"""Credit of whole trajectories: samples are compared, and each turn has its sample's advantage.

A sample's reward is Σ_terms w_term mean(r_term over the turns that the term speaks of): a term of the trajectory counts
once however many turns there are, and samples of different length can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from finemem_jax.config import AdvantageConfig
from finemem_jax.env.credit import centred, complete, numbered
from finemem_jax.env.turns import Turns


def keys(turns: Turns) -> np.ndarray:
    """[turns]: one key per group."""
    return numbered(turns.group)


def advantages(turns: Turns, weights: Mapping[str, float], cfg: AdvantageConfig) -> np.ndarray:
    """[turns]: the sample's reward, centred over its group, on each of its turns; NaN where a term is missing."""
    if not len(turns):
        return np.zeros(0)
    sample_of, first = _samples(turns)
    rewards = np.zeros(len(first))
    for name, term in turns.terms.items():
        spoken = turns.speaks[name]
        count = np.bincount(sample_of, weights=spoken, minlength=len(first))
        total = np.bincount(sample_of, weights=np.where(spoken, term, 0.0), minlength=len(first))
        rewards += weights[name] * total / np.maximum(count, 1)
    group = turns.group[first]
    found = centred(complete(rewards, group), group, std=cfg.std, eps=cfg.eps, min_std=cfg.min_std)
    return found[sample_of]


def _samples(turns: Turns) -> tuple[np.ndarray, np.ndarray]:
    """[turns]: the number of each turn's sample; [samples]: the first turn of each."""
    sample_of = numbered(np.stack([turns.group, turns.sample], axis=1))
    return sample_of, np.unique(sample_of, return_index=True)[1]
