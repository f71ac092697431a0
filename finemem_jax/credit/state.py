"""Credit among samples that wrote from the same memory.

From its second step on, the samples of a group have memories of their own, and what they earn at step t differs by the
memory they found there as much as by what they wrote (Memory-R2, arXiv 2605.21768). Here a turn is compared with turns
of its group that had the very same prompt. `config.advantage.states` says where these come from
(`rollouts/shared_states.py`):

trunk   At each step all G samples write from one memory, and one of them, drawn by the run's key, becomes the memory
        of the next step. Terms that are measured at the turn (format, chunk_qa, gain) are compared among the G. Drawn
        without regard to what they wrote, the trunk is distributed as an ordinary rollout, so this estimates, without
        the bias of unequal states, how much better than the policy's mean a turn did at once. It does not see what the
        turn does to later steps; gain over the final questions is what makes that small. Terms of the episode's end
        (evidence, outcome, compression) belong to the trunk alone, which is a single sample: its turns are paid G times
        what they differ from the trunks of the other episodes at the same step, G because only one of G turns carries
        it. That has the expectation of the final score's gradient but for a factor (n - 1) / n over n episodes, for a
        trunk is in its own mean, and more variance than G whole samples have; of a single episode it is 0.
local   Ordinary rollouts, compared at the same step as in `credit/step.py`, with that rule's bias of unequal states and
        with all terms. At a share of the steps, `local_samples` completions more are written from the memory of one of
        the samples, rewarded by the terms of the turn alone and compared among each other: free of the states' bias,
        blind to the end.

Division by a group's deviation (`advantage.std="sample"`) weighs states by how little their samples differ, which is a
bias of its own, the one that GRPO has; "none" is without it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from finemem_jax.config import AdvantageConfig
from finemem_jax.env.credit import centred, complete, numbered
from finemem_jax.env.turns import Turns, totals

BY_INDEX = True


def keys(turns: Turns) -> np.ndarray:
    """[turns]: one key per group, role, running number and shared memory."""
    return numbered(np.stack([turns.group, turns.role, turns.index, turns.state], axis=1))


def advantages(turns: Turns, weights: Mapping[str, float], cfg: AdvantageConfig) -> np.ndarray:
    """[turns]: what is measured at the turn, centred over those that wrote from the same memory; for turns whose memory
    nobody shared, all terms, centred over the samples at the same turn. NaN where a term is missing."""
    together, is_shared = keys(turns), turns.state >= 0
    at_turn = totals(turns, weights, turns.terms.keys() - turns.at_end)
    at_end = totals(turns, weights, turns.at_end)
    rewards = complete(np.where(is_shared, at_turn, at_turn + at_end), together)
    found = centred(rewards, together, std=cfg.std, eps=cfg.eps, min_std=cfg.min_std)
    trunk = is_shared & np.any([turns.speaks[name] for name in turns.at_end] or [np.zeros(len(turns), bool)], axis=0)
    if trunk.any():
        same_turn = np.stack([turns.role[trunk], turns.index[trunk]], axis=1)
        ends = centred(at_end[trunk], same_turn, std=cfg.std, eps=cfg.eps, min_std=cfg.min_std)
        found[trunk] += np.bincount(together)[together[trunk]] * ends
    return found
