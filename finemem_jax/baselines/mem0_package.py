"""Mem0 of the package, version 2: one call a chunk, which only adds (methods/mem0_package.py)."""

from __future__ import annotations

from finemem_jax.baselines._contestant import Contestant, instructed
from finemem_jax.config import Config


def contestant(cfg: Config) -> Contestant:
    return instructed(cfg, "mem0_package")
