"""r_comp = 1 - tokens(M_T) / Σ_t tokens(c_t): how much shorter the final memory is than what was read."""

from __future__ import annotations

from finemem_jax.config import RewardsConfig
from finemem_jax.types import WRITE, CountTokens, Rollout

ROLES, LEVEL = (WRITE,), "trajectory"


def turn_rewards(rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> float:
    """At most 1, and below 0 for a memory longer than the text. Both lengths are
    counted with the policy's own tokenizer."""
    read = sum(count_tokens(chunk.text) for chunk in rollout.episode.chunks)
    kept = rollout.memory.tokens() if rollout.memory is not None else 0
    return 1.0 - kept / max(read, 1)
