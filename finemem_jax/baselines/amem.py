"""A-MEM: notes that are linked and rewritten (methods/amem.py); its neighbours are the ones that were shown."""

from __future__ import annotations

from finemem_jax.baselines._contestant import Contestant, instructed
from finemem_jax.config import Config


def contestant(cfg: Config) -> Contestant:
    return instructed(cfg, "amem")
