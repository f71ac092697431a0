"""The score of the question that an answering turn was about (Memory-R1's answer agent)."""

from __future__ import annotations

import numpy as np

from finemem_jax.config import RewardsConfig
from finemem_jax.types import ANSWER, CountTokens, Rollout

ROLES, LEVEL = (ANSWER,), "turn"


def turn_rewards(rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> np.ndarray:
    """[answering turns] in [0, 1]; NaN where the judge failed."""
    score = {answer.turn: np.nan if answer.score is None else answer.score for answer in rollout.answers}
    return np.array([score[turn.index] for turn in rollout.of(ANSWER)], dtype=np.float64)
