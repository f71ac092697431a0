"""The mean score by what it is a mean of: published averages do not always say, and differ by several points.

average/sources     over data sources of the mean over episodes of the mean over questions: what is called accuracy here
average/episodes    over episodes of the mean over questions: a source counts by how many episodes it has
average/questions   over questions: an episode counts by how many it has
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from finemem_jax.config import Config
from finemem_jax.types import Rollout

IN_TRAINING = False
COLUMNS = dict.fromkeys(("average/sources", "average/episodes", "average/questions"), ".3f")
TABLE = "averages, by what they are a mean of"


def record(rollout: Rollout, has_model: bool) -> dict:
    """scores: of the questions that were answered."""
    scores = [answer.score for answer in rollout.final_answers if answer.score is not None]
    return {"source": rollout.episode.source, "scores": scores}


def metrics(records: Sequence[Mapping], cfg: Config) -> dict[str, float]:
    by_source = defaultdict(list)
    for found in records:
        if found["scores"]:
            by_source[found["source"]].append(float(np.mean(found["scores"])))
    if not by_source:
        return dict.fromkeys(COLUMNS, 0.0)
    means = (
        [float(np.mean(values)) for values in by_source.values()],
        [value for values in by_source.values() for value in values],
        [score for found in records for score in found["scores"]],
    )
    return {name: float(np.mean(values)) for name, values in zip(COLUMNS, means, strict=True)}
