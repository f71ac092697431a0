"""Groups without spread: all their samples earned the same, and no advantage is left to learn from.

`config.train.resample` says what becomes of them: keep = they stand in the update's denominators, as in the paper;
drop = the update is over the others alone; refill = further episodes are drawn, in the order of the stream, until as
many groups as the step is to have can be learned from, or the bound is reached; what is missing then is dropped (DAPO's
dynamic sampling, arXiv 2503.14476). All of it follows from the advantages, which every process knows, and the position
in the stream is saved with the run: a run that is resumed draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finemem_jax.config import TrainConfig

Advantages = Sequence[Sequence[np.ndarray]]
"""For every group, for every sample, [turns]; NaN: not trained on."""


def is_live(group: Sequence[np.ndarray]) -> bool:
    """Whether any turn of the group has an advantage other than 0."""
    return any(bool(np.any(np.nan_to_num(values) != 0)) for values in group)


def still_wanted(cfg: TrainConfig, credit: Advantages) -> int:
    """How many further groups to draw, given those drawn so far."""
    if cfg.resample != "refill":
        return 0
    lacking = cfg.episodes - sum(map(is_live, credit))
    return max(min(lacking, cfg.episodes + cfg.resample_most - len(credit)), 0)


def trained_groups(cfg: TrainConfig, credit: Advantages) -> list[int | None]:
    """[train.episodes]: the group in each place of the step's update, None where none is.

    A group keeps its place; one without spread gives it to the first of the further groups that has some."""
    first = range(cfg.episodes)
    if cfg.resample == "keep":
        return list(first)
    further = iter([g for g in range(cfg.episodes, len(credit)) if is_live(credit[g])])
    return [g if is_live(credit[g]) else next(further, None) for g in first]
