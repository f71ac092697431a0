"""How much is remembered.

memory_tokens   length of the final memory in tokens of the policy's tokenizer, mean over episodes
memory_items    items in it, likewise
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from finemem_jax.config import Config
from finemem_jax.types import Rollout

IN_TRAINING = True
COLUMNS = {"memory_tokens": ".1f", "memory_items": ".1f"}
TABLE = ""


def record(rollout: Rollout, has_model: bool) -> dict:
    memory = rollout.memory
    return {} if memory is None else {"memory_tokens": memory.tokens(), "memory_items": len(memory.items)}


def metrics(records: Sequence[Mapping], cfg: Config) -> dict[str, float]:
    """Episodes without a turn have no memory, and are in no mean."""
    there = [found for found in records if found]
    return {name: float(np.mean([found[name] for found in there])) if there else 0.0 for name in COLUMNS}
