"""The stream itself: the answerer sees its last `config.eval.context_tokens` tokens."""

from __future__ import annotations

from finemem_jax.baselines._contestant import Contestant, reading, without_limits
from finemem_jax.baselines._scripted import chunk_as_item
from finemem_jax.config import Config


def contestant(cfg: Config) -> Contestant:
    return Contestant(reading(without_limits(cfg), select="all", max_tokens=cfg.eval.context_tokens), chunk_as_item)
