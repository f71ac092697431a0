"""The scripted expert of the warm start, as imperfect as `config.sft.expert` says; it looks at the questions."""

from __future__ import annotations

from finemem_jax.baselines._contestant import Contestant, for_scripts
from finemem_jax.baselines._scripted import expert
from finemem_jax.config import Config


def contestant(cfg: Config) -> Contestant:
    own = for_scripts(cfg)
    return Contestant(own, expert(cfg.sft.expert, cfg.memory.max_operations, cfg.eval.seed), in_prompts=own is cfg)
