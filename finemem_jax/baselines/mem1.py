"""One state that a model rewrites at every chunk, after it has thought."""

from __future__ import annotations

from finemem_jax.baselines._contestant import Contestant, reading, without_limits
from finemem_jax.baselines._rewriting import rewriting
from finemem_jax.config import Config


def contestant(cfg: Config) -> Contestant:
    return Contestant(reading(without_limits(cfg), select="all"), start=rewriting("mem1"), by_server=True)
