"""MemoryBank: dialogue, summaries, and forgetting by exp(-t / S) (methods/memorybank.py)."""

from __future__ import annotations

from finemem_jax.baselines._contestant import Contestant, instructed
from finemem_jax.config import Config


def contestant(cfg: Config) -> Contestant:
    return instructed(cfg, "memorybank")
