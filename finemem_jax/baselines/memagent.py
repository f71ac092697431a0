"""One text, written anew at every chunk by a model that is told what it is for."""

from __future__ import annotations

from finemem_jax.baselines._contestant import Contestant, reading, without_limits
from finemem_jax.baselines._rewriting import rewriting
from finemem_jax.config import Config


def contestant(cfg: Config) -> Contestant:
    return Contestant(reading(without_limits(cfg), select="all"), start=rewriting("memagent"), by_server=True)
