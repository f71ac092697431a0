"""Every line that a question needs, changed facts as UPDATE, within the write limits; it looks at the questions."""

from __future__ import annotations

from finemem_jax.baselines._contestant import Contestant, for_scripts
from finemem_jax.baselines._scripted import expert
from finemem_jax.config import Config, ExpertConfig

_PERFECT = ExpertConfig(keep_useful=1.0, keep_noise=0.0, update_changed=1.0, skip=0.0)


def contestant(cfg: Config) -> Contestant:
    own = for_scripts(cfg)
    return Contestant(own, expert(_PERFECT, cfg.memory.max_operations, seed=0), in_prompts=own is cfg)
