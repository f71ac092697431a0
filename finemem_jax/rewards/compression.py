"""r_comp = 1 - tokens(M_T) / Σ_t tokens(c_t): how much shorter the final memory is than what was read.

`rewards.settings.compression.budget=N` divides by N tokens instead, what memory may hold, where that is less than what
was read. On a long stream the paper's ratio is near 1 for every memory that a small budget allows, and so tells them
apart by next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from finemem_jax.config import RewardsConfig
from finemem_jax.schema.legal import Natural
from finemem_jax.schema.own_settings import settings_of
from finemem_jax.types import WRITE, CountTokens, Rollout

ROLES, LEVEL = (WRITE,), "trajectory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    budget: Natural = 0  # tokens that memory may hold: what its length is compared with; 0 = what was read (the paper)


def turn_rewards(rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> float:
    """At most 1, and below 0 for a memory longer than the text. Both lengths are
    counted with the policy's own tokenizer."""
    budget = settings_of(cfg.settings, "rewards", "compression").budget
    read = sum(count_tokens(chunk.text) for chunk in rollout.episode.chunks)
    kept = rollout.memory.tokens() if rollout.memory is not None else 0
    return 1.0 - kept / max(min(read, budget or read), 1)
