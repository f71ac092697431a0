"""The chunks as they stand, and the answerer sees the `config.eval.rag_k` that fit its question best."""

from __future__ import annotations

from finemem_jax.baselines._contestant import Contestant, reading, without_limits
from finemem_jax.baselines._scripted import chunk_as_item
from finemem_jax.config import Config


def contestant(cfg: Config) -> Contestant:
    return Contestant(reading(without_limits(cfg), k=cfg.eval.rag_k), chunk_as_item)
