"""The final score as a reward of the whole trajectory: r = mean_j s_j, the same for every turn (MemAgent, MEM1)."""

from __future__ import annotations

import numpy as np

from finemem_jax.config import RewardsConfig
from finemem_jax.types import ANSWER, EXTRACT, SEARCH, WRITE, CountTokens, Rollout

ROLES, LEVEL = (WRITE, SEARCH, EXTRACT, ANSWER), "trajectory"


def turn_rewards(rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> float:
    """In [0, 1], over the final questions that were answered; NaN (missing, not 0) where none was."""
    asked = rollout.final_answers
    scores = [answer.score for answer in asked if answer.score is not None]
    if not scores:
        return np.nan if asked else 0.0
    return float(np.mean(scores))
