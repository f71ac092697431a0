"""The policy before training."""

from __future__ import annotations

from finemem_jax.baselines._contestant import Contestant
from finemem_jax.config import Config


def contestant(cfg: Config) -> Contestant:
    return Contestant(cfg)
