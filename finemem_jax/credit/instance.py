"""Credit over an instance: every turn is compared with all turns of its role in the group, whatever their number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from finemem_jax.config import AdvantageConfig
from finemem_jax.env.credit import centred, complete, numbered
from finemem_jax.env.turns import Turns, totals


def keys(turns: Turns) -> np.ndarray:
    """[turns]: one key per group and role."""
    return numbered(np.stack([turns.group, turns.role], axis=1))


def advantages(turns: Turns, weights: Mapping[str, float], cfg: AdvantageConfig) -> np.ndarray:
    """[turns]: the weighted terms, centred over the instance; NaN where any of its turns lacks one."""
    together = keys(turns)
    rewards = complete(totals(turns, weights), together)
    return centred(rewards, together, std=cfg.std, eps=cfg.eps, min_std=cfg.min_std)
