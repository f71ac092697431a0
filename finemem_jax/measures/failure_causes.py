"""Where the wrong answers come from (`evaluation/causes.py`).

wrong           answers below 0.5
failure/CAUSE   how many of them each cause has
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from finemem_jax.config import Config
from finemem_jax.evaluation.causes import CAUSES, failures
from finemem_jax.types import Rollout

IN_TRAINING = False  # every text of memory and source is looked through for every question
_NAMES = {cause: f"failure/{cause}" for cause in CAUSES}
COLUMNS = dict.fromkeys(("questions", "missing_answers", "wrong", *_NAMES.values()), ".0f")
TABLE = "wrong answers and where they come from"


def record(rollout: Rollout, has_model: bool) -> dict:
    return Counter(failures(rollout))


def questions(rollout: Rollout) -> list[dict]:
    """failure: why the answer is wrong, or "missing", or "" """
    return [{"failure": failure} for failure in failures(rollout)]


def metrics(records: Sequence[Mapping], cfg: Config) -> dict[str, float]:
    counts = {name: sum(found.get(cause, 0) for found in records) for cause, name in _NAMES.items()}
    return {"wrong": sum(counts.values()), **counts}
