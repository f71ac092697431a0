"""Mem0 of the paper: two calls a chunk, four operations (methods/mem0_paper.py); the model was not trained for it."""

from __future__ import annotations

from finemem_jax.baselines._contestant import Contestant, instructed
from finemem_jax.config import Config


def contestant(cfg: Config) -> Contestant:
    return instructed(cfg, "mem0_paper")
