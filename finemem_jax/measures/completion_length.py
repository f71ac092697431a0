"""How much is written: completion_tokens, tokens of all turns per writing turn, or per turn where none writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from finemem_jax.config import Config
from finemem_jax.types import WRITE, Rollout

IN_TRAINING = True
COLUMNS: dict[str, str] = {}
TABLE = ""


def record(rollout: Rollout, has_model: bool) -> dict:
    tokens = sum(len(step.completion.tokens) for step in rollout.steps)
    return {"steps": len(rollout.of(WRITE)) or len(rollout.steps), "tokens": tokens}


def metrics(records: Sequence[Mapping], cfg: Config) -> dict[str, float]:
    steps, tokens = (sum(found[name] for found in records) for name in ("steps", "tokens"))
    return {"completion_tokens": tokens / steps if steps else 0.0}
