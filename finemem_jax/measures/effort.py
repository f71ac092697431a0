"""What an episode takes, whoever answers: for comparing methods.

written_tokens   tokens that the policy wrote, in all of its turns, mean over episodes; 0 where a script writes
asked            questions that were put to the answerer, those asked again included, likewise; a policy's own answer is
                 none
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from finemem_jax.config import Config
from finemem_jax.types import Rollout

IN_TRAINING = True
COLUMNS = {"written_tokens": ".1f", "asked": ".1f"}
TABLE = ""


def record(rollout: Rollout, has_model: bool) -> dict:
    written = sum(len(step.completion.tokens) for step in rollout.steps) if has_model else 0
    by_answerer = [answer for answer in rollout.answers if answer.turn is None]
    asked = sum(1 + len(answer.subsets) for answer in by_answerer) + len(rollout.probes)
    return {"written_tokens": written, "asked": asked}


def metrics(records: Sequence[Mapping], cfg: Config) -> dict[str, float]:
    return {name: float(np.mean([found[name] for found in records])) if records else 0.0 for name in COLUMNS}
