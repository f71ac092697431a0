"""r_comp = 1 - tokens(M_T) / Σ_t tokens(c_t): how much shorter the final memory is than what was read."""

from __future__ import annotations

import numpy as np

from finemem_jax.config import RewardsConfig
from finemem_jax.types import CountTokens, Rollout


def step_rewards(rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> np.ndarray:
    """[steps], the same at every step; at most 1, and below 0 for a memory longer than the text. Both lengths are
    counted with the policy's own tokenizer."""
    read = sum(count_tokens(chunk.text) for chunk in rollout.episode.chunks)
    kept = rollout.steps[-1].memory_after.tokens() if rollout.steps else 0
    return np.full(len(rollout.steps), 1.0 - kept / max(read, 1))
