"""r_fmt(t): the share of the operations written at step t that are well-formed and apply (Fine-Mem, format reward)."""

from __future__ import annotations

import numpy as np

from finemem_jax.config import RewardsConfig
from finemem_jax.types import EXTRACT, WRITE, CountTokens, Rollout

ROLES, LEVEL = (WRITE, EXTRACT), "turn"


def turn_rewards(rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> np.ndarray:
    """[writing turns] in [0, 1]; 0 where no operation parsed. An explicit SKIP counts as well-formed.

    Of a turn that says what fast weights shall learn: the share of what it wrote that is learned."""
    shares = [
        sum(outcome.ok for outcome in step.outcomes) / len(step.outcomes) if step.outcomes else 0.0
        for step in rollout.steps
        if step.role in ROLES
    ]
    return np.array(shares, dtype=np.float64)
